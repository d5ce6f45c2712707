"""Checkpoints: a run goes on from one to the last bit, and what is whole is not given up for what may not be."""
import dataclasses
import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from ddpm_course.app.checkpoints import TRAINING, best_checkpoint, is_whole, resume_from, save_checkpoint
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state, training_steps
from ddpm_course.data import load_digits
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.lib.storage import MANIFEST, read_verified, tensors_from_bytes

torch.set_num_threads(1)  # their number may change the last bits

TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=4, steps=5, warmup=2, dropout=0.1,
                   device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_digits()


def go(state, config, data, save_at=(), losses=None):
    "Train `state` to the end, with checkpoints after the updates `save_at`, of these validation losses."
    for step, _ in training_steps(state, data, config):
        if step in save_at:
            save_checkpoint(state, config, losses and losses[step])
    return state


def everything(run):
    "All tensors of the newest checkpoint: raw weights, averaged weights, the optimizer's memory."
    folder = checkpoints(run)[0]
    return {f"{name} {key}": tensor for name in TRAINING[:2]
            for key, tensor in tensors_from_bytes(read_verified(folder, name), name).items()}


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in other)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_run_goes_on_to_the_last_bit_with_dropout_and_labels(data, tmp_path, precision):
    config = dataclasses.replace(TINY, precision=precision, out=str(tmp_path / "run"))
    whole = go(new_state(config, 10), config, data, save_at=(3, 5))
    expected = everything(config.out)
    shutil.rmtree(checkpoints(config.out)[0])  # as if it had been killed before the last one
    state = new_state(config, 10)
    resume_from(state, config)
    assert (state.step, state.ema.n_averaged) == (3, 3)
    go(state, config, data, save_at=(5,))
    assert_same(everything(config.out), expected)
    assert (state.step, state.ema.n_averaged) == (whole.step, whole.ema.n_averaged) == (5, 5)
    assert state.scaler.state_dict() == whole.scaler.state_dict()
    if precision == "fp16":
        saved = json.loads(read_verified(checkpoints(config.out)[1], "training.json"))["scaler"]
        assert saved["scale"] == 65536 and saved["_growth_tracker"] == 3  # updates without an infinite gradient


@pytest.mark.parametrize("damaged", [*TRAINING, MANIFEST])  # by the last a folder is known as one of ours
def test_a_damaged_checkpoint_is_passed_over_and_written_anew(data, tmp_path, damaged):
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    go(new_state(config, 10), config, data, save_at=(3, 5))
    expected, file = everything(config.out), checkpoints(config.out)[0] / damaged
    file.write_bytes(file.read_bytes()[:-100])
    assert not is_whole(file.parent) and is_whole(checkpoints(config.out)[1])
    state = new_state(config, 10)
    with pytest.warns(UserWarning, match="checkpoint step-00000005 is passed over: "):
        resume_from(state, config)
    assert state.step == 3
    go(state, config, data, save_at=(5,))
    assert is_whole(file.parent)
    assert_same(everything(config.out), expected)


@pytest.fixture
def five(data, tmp_path):
    "A run that has five checkpoints behind it, of which it keeps 5 and 4, the newest, and 2, the best."
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    with mock.patch("shutil.rmtree", side_effect=shutil.rmtree) as removed:
        state = go(new_state(config, 10), config, data, range(1, 6), {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.9, 5: 0.8})
    return state, config, [Path(call.args[0]).name for call in removed.call_args_list]


def test_a_checkpoint_is_never_removed_under_a_name_that_counts_as_one(five):
    _, config, removed = five
    assert {".step-00000001.old", ".step-00000003.old"} <= set(removed)
    assert all(name.startswith(".") for name in removed)
    assert not list(Path(config.out, "checkpoints").glob(".*"))


def test_newer_checkpoints_that_were_passed_over_do_not_count_among_those_kept(five):
    state, config, _ = five
    state.step = 3  # as if 5 and 4 were damaged
    save_checkpoint(state, config, 0.9)
    assert [p.name[-1] for p in checkpoints(config.out)] == ["5", "4", "3", "2"]


def test_a_disk_that_is_full_does_no_harm_to_the_checkpoint_of_the_same_update(five):
    state, config, _ = five
    before = everything(config.out)
    with torch.no_grad():
        state.parameters[0].zero_()  # what is written has other bytes
    with (mock.patch("ddpm_course.lib.storage.write_atomic", side_effect=OSError(28, "disk full")),
          pytest.raises(OSError, match="kept are: step-00000005, step-00000004, step-00000002")):
        save_checkpoint(state, config)
    assert [p.name[-1] for p in checkpoints(config.out)] == ["5", "4", "2"]
    assert_same(everything(config.out), before)


def test_a_run_without_checkpoints_has_no_best_one_and_starts_anew(tmp_path):
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    state = new_state(config, 10)
    resume_from(state, config)
    assert best_checkpoint(config.out) is None and state.step == 0
