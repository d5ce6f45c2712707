"""A checkpoint is a model folder with the rest of the training state, written whole or not at all."""
import contextlib
import dataclasses
import functools
import json
import platform
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..formats.model_folder import checkpoints, write_model
from ..lib.storage import (check_tensors, read_verified, remove_folder, tensors_from_bytes, tensors_to_bytes,
                           write_folder)
from ..training import TrainState
from ..unet import UNet
from .config import TrainConfig, check_same, without_folders

TRAINING = ("model.safetensors", "training.safetensors", "training.json")


def _trained(state: TrainState) -> list[tuple[str, torch.nn.Parameter]]:
    "The parameters that the optimizer moves, by name: a network of the user's own may hold others still."
    return [(name, p) for name, p in state.denoiser.model.named_parameters() if p.requires_grad]


def _training_tensors(state: TrainState) -> dict[str, Tensor]:
    "The weights as they are (not averaged), the optimizer's two moments of each, and how often it was used."
    tensors = {f"model.{name}": p for name, p in state.denoiser.model.state_dict().items()}
    for name, p in _trained(state):
        moments = state.optimizer.state[p]
        tensors |= {f"exp_avg.{name}": moments["exp_avg"], f"exp_avg_sq.{name}": moments["exp_avg_sq"]}
    return tensors | {"updates": moments["step"]}


def _facts(state: TrainState, config: TrainConfig, validation: float | None) -> dict:
    "The rest of the state, and what exact resumption depends on besides."
    environment = {"torch": torch.__version__, "python": platform.python_version(), "device": str(state.device),
                   "threads": torch.get_num_threads(), "processes": state.ranks}
    return {"step": state.step, "config": without_folders(dataclasses.asdict(config)),
            "network": type(state.denoiser.model).__name__, "continued": state.continued,
            "scaler": state.scaler.state_dict(), "validation_loss": validation, "environment": environment}


def is_whole(checkpoint: str | Path) -> bool:
    "Whether every file of a checkpoint is there, can be read, and is as it was written."
    with contextlib.suppress(ValueError, OSError):
        return all(read_verified(checkpoint, name) for name in TRAINING)
    return False


def save_checkpoint(state: TrainState, config: TrainConfig, validation: float | None = None) -> Path:
    """
    Write a checkpoint, itself a model folder with the averaged weights, and then drop those that are not kept.

    The network of chapter 07 makes it a model folder; of one of the user's own it holds the weights. `OSError` where
    the disk refuses: older ones are untouched.
    """
    folder = Path(config.out) / "checkpoints" / f"step-{state.step:08d}"
    if not state.optimizer.state:
        raise ValueError("no update has been made yet, expected one or more before a checkpoint")
    if folder.exists() and not is_whole(folder):  # it was passed over when the run was resumed
        remove_folder(folder)
    training, older = _facts(state, config, validation), [p.name for p in checkpoints(config.out)]
    files = {"training.safetensors": tensors_to_bytes(_training_tensors(state)),
             "training.json": json.dumps(training).encode()}  # config.json lists fingerprints and has none itself
    try:
        if isinstance(state.denoiser.model, UNet):
            updates = f"{state.step} updates of {config.batch_size} images, seed {config.seed}"
            write_model(state.averaged, folder, facts={"data": training["config"]["data"], "training": updates},
                        extra_config={"training": training}, extra_files=files)
        else:
            weights = state.averaged.model.state_dict()
            check_tensors(weights, weights, "the model")  # what could not be loaded is not saved
            write_folder(folder, {"model.safetensors": tensors_to_bytes(weights), **files},
                         {"format": f"weights of a network of one's own, {training['network']}"})
    except OSError as error:
        raise OSError(error.errno, f"{folder.name} could not be written ({error.strerror}); kept are: "
                                   f"{', '.join(older) or 'none'}", error.filename) from error
    for name in TRAINING:
        read_verified(folder, name)  # what cannot be read back is no reason to delete an older one
    kept = [p for p in checkpoints(config.out) if p.name <= folder.name]  # a newer one was damaged and passed over
    for old in set(kept[config.keep:]) - {best_checkpoint(config.out)}:
        remove_folder(old)
    return folder


def best_checkpoint(run: str | Path) -> Path | None:
    "The checkpoint of a run with the lowest validation loss; None where none has one."
    losses = {}
    for folder in checkpoints(run):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # a damaged one is not the best
            losses[folder] = float(json.loads(read_verified(folder, "training.json"))["validation_loss"])
    return min(losses, key=losses.get, default=None)


def _read_checkpoint(folder: Path) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    "Facts, averaged weights and training tensors. `ValueError` where any of it is missing or damaged."
    weights, tensors, facts = (read_verified(folder, name) for name in TRAINING)
    return json.loads(facts), *(tensors_from_bytes(content, f"{folder}/{name}")
                                for content, name in zip((weights, tensors), TRAINING))


def _restore(state: TrainState, folder: Path, facts: dict, averaged: dict, found: dict) -> None:
    "Put what `_read_checkpoint` gave into `state`. `ValueError` where the tensors are not those of its network."
    model, parameters = state.denoiser.model, _trained(state)
    expected = {f"model.{n}": p for n, p in model.state_dict().items()} | {"updates": torch.zeros(())}
    expected |= {f"{kind}.{n}": p for kind in ("exp_avg", "exp_avg_sq") for n, p in parameters}
    check_tensors(averaged, model.state_dict(), f"{folder}/model.safetensors")
    check_tensors(found, expected, f"{folder}/training.safetensors")
    model.load_state_dict({n: found[f"model.{n}"] for n in model.state_dict()})
    state.ema.module.load_state_dict(averaged)
    state.step = facts["step"]
    state.ema.n_averaged.fill_(state.step)
    state.scaler.load_state_dict(facts["scaler"])
    for name, p in parameters:
        like = functools.partial(torch.empty_like, p, memory_format=torch.preserve_format)
        state.optimizer.state[p] = {"step": found["updates"].clone().to(p.device),
                                    "exp_avg": like().copy_(found[f"exp_avg.{name}"]),
                                    "exp_avg_sq": like().copy_(found[f"exp_avg_sq.{name}"])}


def _check_fits(facts: dict, state: TrainState, config: TrainConfig, where: str) -> None:
    "`ValueError` that names what differs between a checkpoint that is whole and the run that would go on from it."
    was, now = facts.get("network", "UNet"), type(state.denoiser.model).__name__
    if was != now:
        raise ValueError(f"{where} holds weights of the network {was!r}, and the network to train is {now!r}; "
                         f"expected train(..., model=...) with a {was}")
    check_same(facts["config"], config, where)
    if config.steps < facts["step"]:
        raise ValueError(f"steps is {config.steps}, expected {facts['step']} or more: {where} has made so many updates")


def resume_from(state: TrainState, config: TrainConfig) -> bool:
    """
    Go on from the newest checkpoint that is whole; one that is damaged or cannot be read is passed over with a warning.

    Returns whether there was one: a run that was stopped before its first checkpoint starts anew. Where `config.steps`
    is another number than before, `state.continued` notes it. `ValueError` where the configuration is another one,
    naming the fields, and where there are checkpoints and none is whole.
    """
    there = checkpoints(config.out)
    for folder in there:
        try:
            parts = facts, *_ = _read_checkpoint(folder)
            planned = facts["config"]["steps"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            warnings.warn(f"checkpoint {folder.name} is passed over: {error}")
            continue
        _check_fits(facts, state, config, f"{folder.name} in {config.out!r}")
        _restore(state, folder, *parts)
        state.continued = facts.get("continued", [])
        if planned != config.steps:
            state.continued.append({"step": state.step, "planned": planned})
        return True
    if there:
        raise ValueError(f"none of the {len(there)} checkpoints in {config.out!r} can be read, expected a whole one")
    return False
