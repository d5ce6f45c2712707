"""A run: its images, what it leaves in its folder, how it is stopped, and the images it goes on with."""
import dataclasses
import io
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm.std import tqdm

from ddpm_course.app import processes as processes_module
from ddpm_course.app import run as run_module
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import DATA, draw, load_data, read_metrics, train
from ddpm_course.data import ImageDataset, load_digits
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.hub import load_pretrained
from ddpm_course.lib import viz
from ddpm_course.lib.storage import read_json, write_json
from ddpm_course.training import batch_index

torch.set_num_threads(1)  # their number may change the last bits

TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=8, steps=6, warmup=2, sample_steps=4,
                   samples=4, previews=4, validation=16, log_every=2, save_every=3, device="cpu")


def test_the_images_to_train_on_and_those_held_out(tmp_path):
    assert [len(part) for part in load_data(TrainConfig())] == [10_000, 2_000]
    train_part, none = load_data(TrainConfig(validation=0))
    assert len(train_part) == 10_000 and none is None
    for i in range(10):
        Image.fromarray(np.full((4, 4), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")

    def levels(part):
        return set(part.images[:, 0, 0, 0].tolist())

    def parts(**options):
        return load_data(TrainConfig(data=str(tmp_path), image_size=4, **options))
    kept, held_out = parts(holdout=0.3)
    assert (len(kept), len(held_out)) == (7, 3) and len(levels(kept) | levels(held_out)) == 10
    assert levels(parts(holdout=0.3)[1]) == levels(held_out) != levels(parts(holdout=0.3, seed=1)[1])
    assert parts(holdout=0.0)[1] is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of six updates that nobody stops."
    return train(dataclasses.replace(TINY, out=str(tmp_path_factory.mktemp("whole") / "run")), progress=False)


def test_what_a_run_leaves_in_its_folder(whole):
    assert whole.finished and whole.step == 6 and whole.stopped_by == 0 and whole.skipped == []
    assert {p.name for p in whole.folder.iterdir()} == {
        "config.json", "data.json", "metrics.jsonl", "checkpoints", "previews", "loss.png", "samples.png",
        "denoising.gif"}
    assert [p.name for p in checkpoints(whole.folder)] == ["step-00000006", "step-00000003"]
    assert [p.name for p in (whole.folder / "previews").iterdir()] == ["step-00000003.png"]
    assert [row["step"] for row in whole.metrics] == [2, 3, 4, 6] and whole.metrics == read_metrics(whole.folder)
    assert TrainConfig(**read_json(whole.folder / "config.json")) == dataclasses.replace(TINY, out=str(whole.folder))
    described = read_json(whole.folder / DATA)
    assert (described["images"], described["held_out"], described["skipped"]) == (10_000, 2_000, [])
    assert described["classes"] == list("0123456789") and described["in_memory"] is True


def test_previews_show_the_averaged_weights_from_the_same_noise_each_time(whole, tmp_path):
    late, early = ([*draw(load_pretrained(folder), 4, TINY)]
                   for folder in checkpoints(whole.folder))
    assert torch.equal(early[0].x_t, late[0].x_t) and not torch.equal(early[-1].x0, late[-1].x0)
    for steps, picture in ((early, "previews/step-00000003.png"), (late, "samples.png")):
        viz.save_grid(steps[-1].x0, tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == (whole.folder / picture).read_bytes()


def test_a_line_of_the_metrics_that_a_crash_cut_off_is_left_out(whole, tmp_path):
    assert read_metrics(tmp_path) == []
    lines = (whole.folder / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(lines + b'3\n{"step": 9}\n{"step": "9", "loss": 1}\n\xff\n{"step": 9, "lo')
    assert read_metrics(tmp_path) == whole.metrics


def test_the_update_in_progress_ends_and_is_saved_when_a_signal_comes(tmp_path):
    digits = load_digits()

    class PressCtrlC(ImageDataset):
        def batch(self, index):
            if torch.equal(index, batch_index(len(digits), 8, 1, 0)):
                signal.raise_signal(signal.SIGINT)  # while the second update is running
            return super().batch(index)

        def to(self, device):
            return self
    pressed = PressCtrlC(digits.images, digits.labels, digits.classes)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = train(dataclasses.replace(TINY, out=str(tmp_path / "run"), validation=0), data=pressed, progress=False)
    assert (run.finished, run.step, run.stopped_by) == (False, 2, signal.SIGINT)
    assert [p.name for p in checkpoints(run.folder)] == ["step-00000002"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_at_once(number):
    def act(number, frame):
        raise InterruptedError
    before = signal.signal(number, act)
    try:
        with processes_module.interruptible() as received:
            signal.raise_signal(number)
            assert received == [number]
            with pytest.raises(InterruptedError):
                signal.raise_signal(number)
        assert received == [number] and signal.getsignal(number) is act
    finally:
        signal.signal(number, before)


def test_a_run_goes_on_with_images_that_are_alike_as_far_as_can_be_told(whole):
    resume, described = dataclasses.replace(TINY, out=str(whole.folder), resume=True), read_json(whole.folder / DATA)
    try:
        for noted in (described, {k: v for k, v in described.items() if k != "in_memory"},  # as it once was written
                      {**described, "in_memory": False, "fingerprint": "of names and sizes"}):
            write_json(whole.folder / DATA, noted)
            assert train(resume, progress=False).finished
            write_json(whole.folder / DATA, {**noted, "images": 9, "fingerprint": "another"})
            with pytest.raises(ValueError, match=r"have changed since the run was begun \(9 then, 10000 now\)"):
                train(resume, progress=False)
    finally:
        write_json(whole.folder / DATA, described)


def test_the_time_left_is_right_within_a_fifth_from_the_first_minute_on(tmp_path, monkeypatch):
    "By a clock of its own, on which an update takes a second and a checkpoint five."
    now, told = 0.0, []

    class Bar(tqdm):
        _time = property(lambda self: lambda: now, lambda self, _: None)

        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO(), "mininterval": 0.5})

        def remaining(self):
            "As the bar computes what it shows."
            d = self.format_dict
            return (d["total"] - d["n"]) / (d["rate"] or d["n"] / d["elapsed"])

        def update(self, n=1):
            nonlocal now
            now += 1
            shown = super().update(n)
            told.append((now, self.remaining()))
            return shown

    def checkpoint(*args):
        nonlocal now
        now += 5

    monkeypatch.setattr(run_module, "tqdm", Bar)
    monkeypatch.setattr(run_module, "_checkpoint", checkpoint)
    train(dataclasses.replace(TINY, steps=200, save_every=25, samples=1, out=str(tmp_path / "run")))
    left = [(words, now - at) for at, words in told if at >= 60 and now - at >= 20]
    assert len(left) > 100 and all(words == pytest.approx(truth, rel=0.2) for words, truth in left)
