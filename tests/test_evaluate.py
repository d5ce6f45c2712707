"""`ddpm_course evaluate`, and the distance that a run logs while it goes on."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_course.app.cli import main
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import train
from ddpm_course.evaluation import SCORES
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.lib.storage import read_verified, tensors_from_bytes

TINY = TrainConfig(base_channels=8, groups=4, channel_mults=(1,), attention_resolutions=(), num_timesteps=20, steps=4,
                   batch_size=4, warmup=2, log_every=1, save_every=2, previews=0, samples=2, sample_steps=2,
                   validation=4, device="cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    "A run on digits, of four updates."
    out = tmp_path_factory.mktemp("evaluated") / "run"
    return train(dataclasses.replace(TINY, out=str(out)), progress=False).folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "A run on 16 pictures of 8 x 8 pixels."
    folder, g = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (folder / "all").mkdir()
    for i in range(16):
        Image.fromarray(g.integers(0, 255, (8, 8), np.uint8)).save(folder / "all" / f"{i:02d}.png")
    c = dataclasses.replace(TINY, data=str(folder / "all"), image_size=8, holdout=0.25, out=str(folder / "run"))
    return train(c, progress=False).folder


def test_a_run_on_digits_is_judged_and_written_down(digits, tmp_path, capsys):
    assert main(["evaluate", str(digits), "--n", "140", "--steps", "2", "--out", str(tmp_path / "how")]) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "how.json").read_text())
    assert found["n"] == 140 and found["data"] == "digits" and found["judge"].startswith("digits-1 (sha256 ")
    assert found["judge"] in told and f"{tmp_path / 'how'}.json" in told
    assert tuple(found["scores"]) == (*SCORES, "confident", "copied")
    assert all(f"\n{name} " in told for name in found["scores"])
    assert found["scores"]["frechet"]["samples"]["value"] > 5 * found["scores"]["frechet"]["real"]["value"] > 0
    assert found["scores"]["frechet"]["samples"]["error"] > 0 and found["scores"]["copied"]["real"]["value"] == 0.5
    assert found["scores"]["confident"]["real"]["value"] > 0.9
    with Image.open(tmp_path / "how.png") as picture:
        assert picture.size == (2 * (8 * 30 + 2), 2 * (4 * 30 + 2))  # eight by four, twice as large
    assert main(["evaluate", str(digits), "--n", "140", "--steps", "2", "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == found


def test_images_that_no_judge_knows_are_compared_by_their_pixels(pictures, tmp_path, capsys):
    assert main(["evaluate", str(pictures), "--n", "5", "--steps", "2", "--out", str(tmp_path / "how")]) == 0
    told, found = capsys.readouterr().out, json.loads((tmp_path / "how.json").read_text())
    assert "no judge knows the images of" in told and "all_scores tells the rest" in told
    assert found["judge"] is None and list(found["scores"]) == ["copied"] and found["training"] == 12


@pytest.mark.parametrize("line, words", [
    ("digits --n 100", "n is 100, expected a whole number from 130 to 2,000"),
    ("digits --n 2001", "n is 2001, expected a whole number from 130 to 2,000"),
    ("digits --n 0", "n is 0, expected a whole number of 1 or more"),
    ("digits --out nowhere/how", "out is 'nowhere/how', expected a name in a folder that exists"),
    ("digits --data nowhere", "nowhere"),
    ("MODEL", "data is None, expected the real images to compare with, such as --data digits; the model"),
    ("PICTURES --data digits", "data is 'digits', of 28 x 28 pixels and 1 channel, expected images of 8 x 8 pixels"),
])
def test_what_cannot_be_judged_is_refused(line, words, digits, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(checkpoints(digits)[0], tmp_path / "model")
    line = line.replace("MODEL", str(model)).replace("PICTURES", str(pictures))
    assert main(["evaluate", *line.split(), "--steps", "1"]) == 2
    told = capsys.readouterr()
    assert words in told.err and not told.out and told.err.count("\n") == 1


def test_a_model_folder_is_judged_beside_the_images_that_are_named(digits, tmp_path, capsys):
    model = shutil.copytree(checkpoints(digits)[0], tmp_path / "model")
    line = ["evaluate", str(model), "--data", "digits", "--n", "130", "--steps", "1", "--out", str(tmp_path / "how")]
    assert main(line) == 0 and "frechet" in capsys.readouterr().out


# ---- while a run goes on


def tensors(run):
    "All tensors of the newest checkpoint."
    folder = checkpoints(run)[0]
    return {f"{name} {key}": tensor for name in ("model.safetensors", "training.safetensors")
            for key, tensor in tensors_from_bytes(read_verified(folder, name), name).items()}


def test_evaluating_changes_nothing_that_is_trained_and_a_run_goes_on_to_the_bit(digits, tmp_path):
    c = dataclasses.replace(TINY, evaluate_every=3, log_every=2, out=str(tmp_path / "run"))
    run = train(c, progress=False)
    rows = {row["step"]: row for row in run.metrics}
    assert list(rows) == [2, 3, 4] and [step for step in rows if "frechet" in rows[step]] == [3]
    assert rows[3]["frechet"] > 2 * rows[3]["frechet_floor"] > 0
    whole, plain = tensors(run.folder), tensors(digits)
    assert whole.keys() == plain.keys() and all(torch.equal(whole[k], plain[k]) for k in whole)
    shutil.rmtree(checkpoints(run.folder)[0])
    again = train(dataclasses.replace(c, resume=True), progress=False)
    assert all(torch.equal(tensor, whole[k]) for k, tensor in tensors(again.folder).items())
    assert [row.get("frechet") for row in again.metrics] == [row.get("frechet") for row in run.metrics]
    assert train(dataclasses.replace(c, resume=True, evaluate_every=0), progress=False).finished  # free to change


def test_the_distance_stands_beside_the_validation_loss_where_both_are_due(tmp_path):
    run = train(dataclasses.replace(TINY, evaluate_every=2, steps=2, out=str(tmp_path / "run")), progress=False)
    assert {"frechet", "frechet_floor", "validation_loss"} <= run.metrics[-1].keys()


def test_an_evaluation_that_fails_costs_no_run(tmp_path, monkeypatch):
    def fails(*given):
        raise RuntimeError("no")
    monkeypatch.setattr("ddpm_course.app.run.logged_scores", fails)
    with pytest.warns(UserWarning, match="an evaluation failed, and the run goes on without: RuntimeError: no"):
        run = train(dataclasses.replace(TINY, evaluate_every=3, out=str(tmp_path / "run")), progress=False)
    assert run.finished and "frechet" not in run.metrics[2]


@pytest.mark.parametrize("change", [{"data": "emoji", "image_size": 8}, {"image_size": 14}, {"validation": 0}])
def test_a_run_whose_samples_no_judge_knows_is_refused_before_anything_is_written(change, tmp_path):
    c = dataclasses.replace(TINY, evaluate_every=2, out=str(tmp_path / "run"), **change)
    with pytest.raises(ValueError, match="evaluate_every is 2, expected 0 for images that are no digits"):
        train(c, progress=False)
    assert not (tmp_path / "run" / "config.json").exists()
