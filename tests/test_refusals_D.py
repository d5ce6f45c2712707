"""Training: every refusal, with the type of its error and words that must occur in its message."""
import dataclasses
import math
import warnings
from unittest import mock

import pytest
import torch

from ddpm_course.app.checkpoints import resume_from, save_checkpoint
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.processes import pick_device
from ddpm_course.app.run import DATA, new_state, train, training_steps
from ddpm_course.data import load_digits
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.lib.storage import read_json, write_json
from ddpm_course.training import train_step

TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=8, steps=3, warmup=2, sample_steps=4,
                   samples=4, previews=0, validation=0, device="cpu")


def refused(call, kind, words):
    "`call` must raise `kind` with a message in which `words` occur."
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value), caught.value


def test_config():
    for name in ("image_size", "patch_size", "steps", "batch_size", "accumulate", "num_timesteps", "log_every",
                 "save_every", "samples", "sample_steps"):
        for value in (0, -1):
            refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is {value}, expected a whole number of 1 or more")
    for name in ("warmup", "validation", "previews", "workers"):
        refused(lambda: TrainConfig(**{name: -1}), ValueError, f"{name} is -1, expected a whole number of 0 or more")
    refused(lambda: TrainConfig(memory=-1), ValueError, "memory is -1, expected 0 or more")
    refused(lambda: TrainConfig(keep=1), ValueError, "keep is 1, expected a whole number of 2 or more")
    for name in ("lr", "grad_clip"):
        for value in (0.0, -1.0, math.nan):
            refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is {value}, expected more than 0")
    for name, words, above in (("decay", "0 to 1", 1.1), ("label_dropout", "0 to 1", 2), ("max_skipped", "0 to 1", 1.5),
                               ("background", "a whole number from 0 to 255", 256),
                               ("ema", "0 up to but not including 1", 1.0), ("guidance", "0 up to but", math.inf),
                               ("holdout", "0 up to but not including 1", 1.0)):
        for value in (-0.1, above, math.nan):
            refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is {value}, expected {words}")
    for seed in (-1, 2**63):
        refused(lambda: TrainConfig(seed=seed), ValueError, f"seed is {seed}, expected a whole number from 0 to 9,2")
    refused(lambda: TrainConfig(weighting="x"), ValueError, "weighting is 'x', expected one of")
    refused(lambda: TrainConfig(precision="int8"), ValueError,
            "precision is 'int8', expected one of ('float32', 'bf16', 'fp16')")
    for name, value, words in (("flip", "false", "one of (False, True)"), ("conditional", "no", "one of (False, True)"),
                               ("lr", True, "a number, more than 0"), ("steps", "10", "a whole number of 1 or more"),
                               ("channel_mults", 2, "whole numbers such as (1, 2)"), ("out", 3, "text"),
                               ("channel_mults", "12", "whole numbers"), ("channel_mults", (1, 0.5), "a whole number")):
        refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is ")
        refused(lambda: TrainConfig(**{name: value}), ValueError, f", expected {words}")
    refused(lambda: TrainConfig(sample_steps=2000), ValueError,
            "sample_steps is 2000, expected at most num_timesteps = 1000")


def test_device(monkeypatch):
    for gpus, names, there in ((0, ("tpu", "cuda", "mps", "fast card"), "cpu"), (2, ("cuda:2", "mps"), "cuda, cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=gpus: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=gpus: n)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        for name in names:
            refused(lambda: pick_device(name), ValueError,
                    f"device is {name!r}, expected auto or one that this machine has: {there}")


def test_checkpoints(tmp_path):
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    state = new_state(config)
    refused(lambda: save_checkpoint(state, config), ValueError, "no update has been made yet, expected one or more")
    for _ in training_steps(state, load_digits(), config):
        save_checkpoint(state, config)
    faster = dataclasses.replace(config, lr=0.5, seed=3)
    for words in ("lr (was 0.001, now 0.5)", "seed (was 0, now 3)", "expected the same, or another run folder",
                  f"step-00000003 in {config.out!r} has another configuration"):
        refused(lambda: resume_from(new_state(faster), faster), ValueError, words)
    with mock.patch("ddpm_course.formats.model_folder.write_folder", side_effect=OSError(28, "disk full", "there")):
        refused(lambda: save_checkpoint(state, config), OSError,
                "step-00000003 could not be written (disk full); kept are: step-00000003, step-00000002: 'there'")
    for folder in checkpoints(config.out):
        (folder / "training.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each is passed over
        refused(lambda: resume_from(state, config), ValueError,
                f"none of the 2 checkpoints in {config.out!r} can be read, expected a whole one")


def test_training():
    digits, state = load_digits(), new_state(TINY)
    spoiled = digits.batch(torch.arange(8))[0].fill_(math.nan), None
    state.step = 1
    for words in ("the loss or its gradient is not finite at step 1, with learning rate 0.001",
                  "the weights were not changed by it, and no checkpoint was written since: try a lower lr"):
        refused(lambda: train_step(state, spoiled, TINY), FloatingPointError, words)


def test_run(tmp_path):
    whole = dataclasses.replace(TINY, out=str(tmp_path / "whole"))
    train(whole, progress=False)

    def begin(out="x", **change):
        return train(dataclasses.replace(TINY, out=str(tmp_path / out), **change), progress=False)
    for kind, words, change in (
            (ValueError, f"out is {whole.out!r}, which exists already; expected a new folder, or --resume to go on",
             {"out": "whole"}),
            (ValueError, "none', expected the folder of a run to resume; there is none",
             {"out": "none", "resume": True}),
            (ValueError, "base_channels (was 8, now 16)",
             {"out": "whole", "resume": True, "lr": 5e-4, "base_channels": 16}),
            (ValueError, "lr (was 0.001, now 0.0005)",
             {"out": "whole", "resume": True, "lr": 5e-4, "base_channels": 16}),
            (ValueError, "image_size is 30", {"image_size": 30, "patch_size": 4}),
            (ValueError, "'nowhere'", {"data": "nowhere"}),
            (ValueError, "batch_size is 8, expected a multiple of 1 (processes) times 3 (accumulate)",
             {"accumulate": 3})):
        refused(lambda: begin(**change), kind, words)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]  # nothing half-written
    described = read_json(tmp_path / "whole" / DATA)
    for change, words in (({"fingerprint": "other"}, "(10000 then, 10000 now)"),
                          ({"in_memory": False, "images": 9}, "(9 then, 10000 now)"),
                          ({"in_memory": False, "held_out": 9}, "(10000 then, 10000 now)")):
        write_json(tmp_path / "whole" / DATA, {**described, **change})
        refused(lambda: begin("whole", resume=True), ValueError,
                f"the images in 'digits' have changed since the run was begun {words}; expected the same, or another")
