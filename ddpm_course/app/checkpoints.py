"""A checkpoint is a model folder with the rest of the training state, written whole or not at all."""
import contextlib
import dataclasses
import functools
import json
import os
import platform
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..formats.model_folder import checkpoints, write_model
from ..lib.storage import check_tensors, read_verified, tensors_from_bytes, tensors_to_bytes
from ..training import TrainState, check_finite
from .config import TrainConfig, check_same

TRAINING = ("model.safetensors", "training.safetensors", "training.json")


def _training_tensors(state: TrainState) -> dict[str, Tensor]:
    "The weights as they are (not averaged), the optimizer's two moments of each, and how often it was used."
    tensors = {f"model.{name}": p for name, p in state.denoiser.model.state_dict().items()}
    for name, p in state.denoiser.model.named_parameters():
        moments = state.optimizer.state[p]
        tensors |= {f"exp_avg.{name}": moments["exp_avg"], f"exp_avg_sq.{name}": moments["exp_avg_sq"]}
    return tensors | {"updates": moments["step"]}


def _facts(state: TrainState, config: TrainConfig, validation: float | None) -> dict:
    "The rest of the state, and what exact resumption depends on besides."
    environment = {"torch": torch.__version__, "python": platform.python_version(), "device": str(state.device),
                   "threads": torch.get_num_threads(), "processes": state.ranks}
    return {"step": state.step, "config": dataclasses.asdict(config), "scaler": state.scaler.state_dict(),
            "validation_loss": validation, "environment": environment}


def is_whole(checkpoint: str | Path) -> bool:
    "Whether every file of a checkpoint is there and as it was written."
    with contextlib.suppress(ValueError):
        return all(read_verified(checkpoint, name) for name in TRAINING)
    return False


def save_checkpoint(state: TrainState, config: TrainConfig, validation: float | None = None) -> Path:
    """
    Write a checkpoint, itself a model folder with the averaged weights, and then drop those that are not kept.

    `FloatingPointError` where the training has diverged, `OSError` where the disk refuses: older ones are untouched.
    """
    check_finite(state, config)
    folder = Path(config.out) / "checkpoints" / f"step-{state.step:08d}"
    if not state.optimizer.state:
        raise ValueError("no update has been made yet, expected one or more before a checkpoint")
    facts = {"data": config.data, "training": f"{state.step} updates of {config.batch_size} images, seed {config.seed}"}
    if folder.exists() and not is_whole(folder):  # it was passed over when the run was resumed
        shutil.rmtree(folder)
    training, older = _facts(state, config, validation), [p.name for p in checkpoints(config.out)]
    try:
        write_model(state.averaged, folder, facts=facts, extra_config={"training": training}, extra_files={
            "training.safetensors": tensors_to_bytes(_training_tensors(state)),
            "training.json": json.dumps(training).encode()})  # config.json lists fingerprints and has none itself
    except OSError as error:
        raise OSError(error.errno, f"{folder.name} could not be written ({error.strerror}); kept are: "
                                   f"{', '.join(older) or 'none'}", error.filename) from error
    for name in TRAINING:
        read_verified(folder, name)  # what cannot be read back is no reason to delete an older one
    kept = [p for p in checkpoints(config.out) if p.name <= folder.name]  # a newer one was damaged and passed over
    for old in set(kept[config.keep:]) - {best_checkpoint(config.out)}:
        hidden = old.with_name(f".{old.name}.old")
        os.replace(old, hidden)  # gone at once, or not at all
        shutil.rmtree(hidden)
    return folder


def best_checkpoint(run: str | Path) -> Path | None:
    "The checkpoint of a run with the lowest validation loss; None where none has one."
    losses = {}
    for folder in checkpoints(run):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged one is not the best
            losses[folder] = float(json.loads(read_verified(folder, "training.json"))["validation_loss"])
    return min(losses, key=losses.get, default=None)


def _read_checkpoint(folder: Path, state: TrainState) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    "Facts, averaged weights and training tensors. `ValueError` where any of it is missing, damaged or does not fit."
    weights, tensors, facts = (read_verified(folder, name) for name in TRAINING)
    model = state.denoiser.model
    averaged = tensors_from_bytes(weights, f"{folder}/model.safetensors")
    check_tensors(averaged, model.state_dict(), f"{folder}/model.safetensors")
    found = tensors_from_bytes(tensors, f"{folder}/training.safetensors")
    expected = {f"model.{n}": p for n, p in model.state_dict().items()} | {"updates": torch.zeros(())}
    expected |= {f"{kind}.{n}": p for kind in ("exp_avg", "exp_avg_sq") for n, p in model.named_parameters()}
    check_tensors(found, expected, f"{folder}/training.safetensors")
    return json.loads(facts), averaged, found


def _restore(state: TrainState, facts: dict, averaged: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    "Put what `_read_checkpoint` gave into `state`."
    model = state.denoiser.model
    model.load_state_dict({n: found[f"model.{n}"] for n in model.state_dict()})
    state.ema.module.load_state_dict(averaged)
    state.step = state.ema.n = facts["step"]
    state.scaler.load_state_dict(facts["scaler"])
    state.first_bad.fill_(-1)
    for name, p in model.named_parameters():
        like = functools.partial(torch.empty_like, p, memory_format=torch.preserve_format)
        state.optimizer.state[p] = {"step": found["updates"].clone().to(p.device),
                                    "exp_avg": like().copy_(found[f"exp_avg.{name}"]),
                                    "exp_avg_sq": like().copy_(found[f"exp_avg_sq.{name}"])}


def resume_from(state: TrainState, config: TrainConfig) -> None:
    """
    Go on from the newest checkpoint that is whole; a damaged one is passed over with a warning.

    A run that was stopped before its first checkpoint starts anew. `ValueError` where the configuration is another
    one, naming the fields, and where there are checkpoints and none is whole.
    """
    there = checkpoints(config.out)
    for folder in there:
        try:
            parts = _read_checkpoint(folder, state)
            trained = parts[0]["config"]
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"checkpoint {folder.name} is passed over: {error}")
            continue
        check_same(trained, config, f"{folder.name} in {config.out!r}")
        return _restore(state, *parts)
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints in {config.out!r} can be read, expected a whole one")
