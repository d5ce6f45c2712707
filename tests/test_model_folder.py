"""A model's folder: its description, saving, loading, the hub. What it refuses is in the file of the refusals."""
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from small_models import SMALL, description, files_below, questions, same_model, small_denoiser, stand_in_for_the_hub

from ddpm_course.app.cli import main
from ddpm_course.data import load_emoji
from ddpm_course.ddim import ddim_sample
from ddpm_course.formats.model_folder import (write_model, FORMAT, build, checkpoints, describe, schedule_from_config,
                                              schedule_to_config)
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.hub import load_pretrained, save_pretrained
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import SCHEDULES, make_schedule


def through_json(plain):
    return json.loads(json.dumps(plain))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_the_course_is_stored_by_its_name(name, zero):
    schedule = make_schedule(name, 50, zero_terminal_snr=zero)
    stored = through_json(schedule_to_config(schedule))
    assert stored == {"name": name, "num_timesteps": 50, "zero_terminal_snr": zero}
    assert torch.equal(schedule_from_config(stored).exact_betas, schedule.exact_betas)


@pytest.mark.parametrize("betas", [
    torch.linspace(0.01, 0.3, 5, dtype=torch.float64),
    make_schedule("cosine", 100).exact_betas * (1 + 1e-15),  # a name would change its last bits
    linear_beta_schedule(1000, 1e-4, 0.02001)], ids=["own", "nearly cosine", "nearly linear"])
def test_any_other_schedule_is_stored_by_its_betas_to_the_last_bit(betas):
    stored = through_json(schedule_to_config(NoiseSchedule(betas)))
    assert list(stored) == ["betas"]
    assert torch.equal(schedule_from_config(stored).exact_betas, NoiseSchedule(betas).exact_betas)


def test_a_description_builds_its_like():
    denoiser, plain = small_denoiser(), description()
    twin = build(plain)
    assert describe(twin) == describe(denoiser)
    assert (twin.model.config, twin.prediction, twin.shape, twin.clip) == (SMALL, "v", (1, 8, 8), (-1.0, 1.0))
    assert torch.equal(twin.schedule.exact_betas, denoiser.schedule.exact_betas)
    assert build(description(clip=None)).clip is None and build(description(clip=[0, 1])).clip == (0, 1)
    assert build(description(shape=[1, 12, 4])).shape == (1, 12, 4)


def test_what_stands_around_a_network_is_taken_off(tmp_path):
    plain = small_denoiser()
    around = torch.nn.DataParallel(torch.compile(plain.model))
    assert all(name.startswith("module._orig_mod.") for name in around.state_dict())
    save_pretrained(Denoiser(around, plain.schedule, "v", shape=(1, 8, 8)), tmp_path / "model")
    assert same_model(load_pretrained(tmp_path / "model"), plain)


def test_what_was_saved_answers_the_same_to_the_bit(tmp_path):
    denoiser = small_denoiser()
    save_pretrained(denoiser, tmp_path / "tiny", facts={"data": "none"})
    assert sorted(files_below(tmp_path / "tiny")) == ["README.md", "config.json", "model.safetensors"]
    before = torch.random.get_rng_state()
    loaded = load_pretrained(tmp_path / "tiny")
    assert torch.equal(torch.random.get_rng_state(), before), "loading draws random numbers"
    assert same_model(loaded, denoiser) and not same_model(small_denoiser(seed=1), denoiser)
    asked = questions(denoiser)
    assert torch.equal(loaded(*asked).x0, denoiser(*asked).x0)
    assert not loaded.training and not loaded.model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.model.parameters())
    assert loaded.model.mid[0].res.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert load_pretrained(str(tmp_path / "tiny"), device="meta").model.conv_in.weight.device.type == "meta"


def test_what_a_checkpoint_adds_lies_beside_the_model(tmp_path):
    write_model(small_denoiser(), tmp_path / "more", facts={"data": "none"},
                extra_files={"notes.txt": b"as in a checkpoint"}, extra_config={"step": 7})
    there = files_below(tmp_path / "more")
    saved = json.loads(there["config.json"])
    assert saved["facts"] == {"data": "none"} and saved["step"] == 7 and saved["format"] == FORMAT
    assert sorted(saved["files"]) == ["README.md", "model.safetensors", "notes.txt"]
    assert there["notes.txt"] == b"as in a checkpoint" and b"| data | none |" in there["README.md"]
    assert same_model(load_pretrained(tmp_path / "more"), small_denoiser())


def test_half_precision_takes_two_bytes_a_number(tmp_path):
    denoiser, asked = small_denoiser(), questions(small_denoiser())
    save_pretrained(denoiser, tmp_path, half=True)
    count = sum(p.numel() for p in denoiser.model.parameters())
    assert 2 * count < (tmp_path / "model.safetensors").stat().st_size < 2 * count + 20_000
    loaded = load_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    difference = (loaded(*asked).x0 - denoiser(*asked).x0).abs().max()
    assert 0 < difference < 5e-3  # it was rounded, and no more than that


def test_an_empty_folder_and_an_older_model_may_be_written_over(tmp_path):
    for seed in (0, 1):
        save_pretrained(small_denoiser(seed), tmp_path)
        assert same_model(load_pretrained(tmp_path), small_denoiser(seed))
    big = small_denoiser()
    big.model.conv_out.bias.data[0] = 70_000.0  # more than float16 can say, and no reason to refuse float32
    save_pretrained(big, tmp_path)
    assert load_pretrained(tmp_path).model.conv_out.bias[0] == 70_000


def test_a_run_loads_as_its_newest_checkpoint(tmp_path):
    for step in (5, 40, 7):
        save_pretrained(small_denoiser(seed=step), tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "checkpoints" / ".step-00000050.tmp").mkdir()  # one that is being written
    (tmp_path / "checkpoints" / "step-00000060.bad").mkdir()
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000040", "step-00000007", "step-00000005"]
    assert same_model(load_pretrained(tmp_path), small_denoiser(seed=40))


def test_the_bundled_model_loads_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = load_pretrained("digits")
    assert digits.shape == (1, 28, 28) and digits.model.config.num_classes == 10 and digits.prediction == "v"
    assert sum(p.numel() for p in digits.model.parameters()) == 1_465_876
    noise = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    ink = (ddim_sample(digits, noise, steps=10, y=torch.tensor([0, 1]), progress=False) > 0).float().mean((1, 2, 3))
    assert 0.03 < ink[1] < ink[0] < 0.35  # a 0 has more ink than a 1, and neither is noise, of which half is above 0


def test_the_bundled_emoji_come_in_named_categories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    emoji = load_pretrained("emoji")
    assert emoji.shape == (3, 32, 32) and emoji.classes == load_emoji("test").classes and emoji.num_labels == 10
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    y = torch.full((4,), emoji.classes.index("Smileys & Emotion"))
    red, green, blue = ddim_sample(emoji, noise, steps=10, y=y, progress=False)[:, :, 8:24, 8:24].mean((0, 2, 3))
    assert red > green > blue + 0.5  # faces are yellow; noise has equal means
    small = ["--n", "1", "--steps", "2", "--device", "cpu", "--out", "flag.png"]
    assert main(["sample", "emoji", "--y", "Flags", *small]) == 0 and (tmp_path / "flag.png").exists()
    bundled = files("ddpm_course") / "assets" / "models" / "emoji"
    assert sum(len(part.read_bytes()) for part in bundled.iterdir()) < 5_000_000


def test_an_id_fetches_what_is_needed_and_nothing_else(tmp_path, monkeypatch):
    save_pretrained(small_denoiser(), tmp_path / "tiny")
    asked = stand_in_for_the_hub(monkeypatch, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert same_model(load_pretrained("somebody/tiny", revision="v1"), small_denoiser())
    assert asked == [("somebody/tiny", {"revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]})]
    (tmp_path / "runs").mkdir()
    for path in ("runs/digitz", "digitz", "../digits", "a/b/c", "-a/b", str(Path("runs").resolve() / "a")):
        with pytest.raises(ValueError, match="expected a model folder"):
            load_pretrained(path)
    assert len(asked) == 1, "a path was sent over the network"
