"""A folder that says what a model is, holds its weights, and can be trusted when it comes from somebody else."""
import dataclasses
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ..forward import NoiseSchedule
from ..lib.storage import (MANIFEST, check_tensors, read_json, read_verified, tensors_from_bytes, tensors_to_bytes,
                           write_folder)
from ..objective import Denoiser
from ..schedules import SCHEDULES, make_schedule
from ..unet import UNet, UNetConfig
from .model_card import model_card

FORMAT = "ddpm_course model, version 1"

WEIGHTS = "model.safetensors"


def whole_number(value, name: str, high: int) -> int:
    "A whole number out of somebody else's JSON, or a `ValueError` with its name."
    if type(value) is not int or not 1 <= value <= high:  # True is an int to Python, but not a size
        raise ValueError(f"{name} is {value!r:.80}, expected a whole number from 1 to {high:,}")
    return value


def schedule_from_config(config: dict) -> NoiseSchedule:
    "The schedule that `schedule_to_config` described."
    if "betas" in config:
        return NoiseSchedule(torch.tensor(config["betas"], dtype=torch.float64))
    T = whole_number(config["num_timesteps"], "num_timesteps", 100_000)
    return make_schedule(config["name"], T, zero_terminal_snr=config["zero_terminal_snr"])


def schedule_to_config(schedule: NoiseSchedule) -> dict:
    "A schedule as JSON: its name where it is one of the course's own, its betas in full where it is not."
    T = schedule.num_timesteps
    for name in SCHEDULES:
        for zero in (False, True):
            try:
                known = make_schedule(name, T, zero_terminal_snr=zero)
            except ValueError:
                continue  # this schedule does not exist for so few steps
            if torch.equal(known.exact_betas, schedule.exact_betas):
                return {"name": name, "num_timesteps": T, "zero_terminal_snr": zero}
    return {"betas": schedule.exact_betas.tolist()}


def network_of(denoiser: Denoiser) -> UNet:
    "The UNet of a denoiser, without what `torch.compile` or `DistributedDataParallel` have put around it."
    model = getattr(denoiser, "model", None)
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    if not isinstance(model, UNet):
        raise ValueError(f"the network is {type(model).__name__} in a {type(denoiser).__name__}, "
                         f"expected the UNet of chapter 07 in a Denoiser")
    return model


def count_parameters(model: UNet) -> int:
    "How many numbers the network learns."
    return sum(p.numel() for p in model.parameters())


def describe(denoiser: Denoiser) -> dict:
    "Everything but the weights, as JSON: architecture, schedule, prediction, shape and range of the images."
    return {"format": FORMAT, "architecture": dataclasses.asdict(network_of(denoiser).config),
            "schedule": schedule_to_config(denoiser.schedule), "prediction": denoiser.prediction,
            "shape": list(denoiser.shape), "clip": denoiser.clip and list(denoiser.clip)}


def read_architecture(config: dict) -> UNetConfig:
    "Somebody else's JSON as a `UNetConfig`: each value of the right type, and none without bounds."
    for field in dataclasses.fields(UNetConfig):
        value, kind = config.get(field.name, field.default), type(field.default)
        if kind is bool and type(value) is not bool or kind is float and type(value) not in (int, float) \
                or kind is tuple and not isinstance(value, (list, tuple)):
            raise ValueError(f"{field.name} is {value!r:.80}, expected {'a list' if kind is tuple else kind.__name__}")
        if kind is int or kind is tuple or value is not None and kind is type(None):
            for number in value if kind is tuple else [value]:
                whole_number(number, field.name, 100 if field.name == "num_res_blocks" else 1_000_000)
    return UNetConfig(**config)


def _parts(config: dict) -> tuple[UNetConfig, dict]:
    "What `describe` gave, checked: the architecture, and the arguments of `Denoiser` other than the network."
    if config.get("format") != FORMAT:
        raise ValueError(f"format is {config.get('format')!r:.80}, expected {FORMAT!r}")
    try:
        architecture, clip = read_architecture(config["architecture"]), config["clip"]
        shape = tuple(whole_number(size, "shape", 1_000_000) for size in config["shape"])
        if len(shape) != 3 or shape[0] != architecture.image_channels:
            raise ValueError(f"shape is {shape}, expected ({architecture.image_channels}, height, width)")
        if clip is not None and not (len(clip) == 2 and -math.inf < clip[0] < clip[1] < math.inf):
            raise ValueError(f"clip is {clip!r:.80}, expected null or two numbers, the smaller first")
        return architecture, {"schedule": schedule_from_config(config["schedule"]), "shape": shape,
                              "prediction": config["prediction"], "clip": clip and tuple(map(float, clip))}
    except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the model's {MANIFEST} has a missing or unexpected entry: {error}") from error


def build(config: dict) -> Denoiser:
    "A denoiser with fresh weights from what `describe` gave. `ValueError` for an unknown format or a bad value."
    architecture, others = _parts(config)
    return Denoiser(UNet(architecture), **others)


def check_target(folder: Path, index: str, is_ours, expected=()) -> None:
    "A folder may be written if it is new, empty, or a model of ours and nothing more; else it stays untouched."
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file, expected a folder to write the model to")
    if not folder.exists() or not any(folder.iterdir()):
        return
    about = read_json(folder / index) if (folder / index).is_file() else {}
    if not is_ours(about):
        raise ValueError(f"{str(folder)!r} holds something else, expected a new or empty folder, or a model's")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if strangers := sorted(there - {index, *(expected or about.get("files", ()))}):
        raise ValueError(f"{str(folder)!r} holds {strangers[0]!r}, which is no part of the model and would be lost")


def write_model(denoiser: Denoiser, folder: str | Path, *, facts: dict | None = None, half: bool = False,
                extra_files: dict[str, bytes] | None = None, extra_config: dict | None = None) -> None:
    """
    Write a model folder: `config.json`, `model.safetensors` and a model card, all at once or not at all.

    `facts`: rows for the model card, see `model_card`. `half`: store weights as float16. `extra_files`,
    `extra_config`: what a checkpoint adds. `ValueError` where `folder` holds anything but a model of this course, or
    the weights are not finite.
    """
    folder, facts = Path(folder), facts or {}
    check_target(folder, MANIFEST, lambda about: about.get("format") == FORMAT)
    model, about = network_of(denoiser), describe(denoiser)
    weights = {k: v.half() if half else v for k, v in model.state_dict().items()}
    check_tensors(weights, weights, "the model")  # what could not be loaded is not saved
    content = {WEIGHTS: tensors_to_bytes(weights), **(extra_files or {}),
               "README.md": model_card(about, count_parameters(model), folder.name, facts).encode()}
    write_folder(folder, content, {**about, "facts": facts, **(extra_config or {})})


def blank_network(config: UNetConfig) -> UNet:
    "The network with names and shapes, but without memory for its numbers."
    try:
        with torch.device("meta"):
            return UNet(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"no network can be built from {config}: {error}") from error


def check_file_size(path: Path, model: UNet) -> None:
    "Refuse a file that cannot hold the numbers of `model`, before it is read or memory is set aside for them."
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise ValueError(f"{str(path)!r} is missing" + (f"; {pickles[0]!r} is a pickle, which may run code, and is not "
                                                        f"read" if pickles else ""))
    tensors, size = model.state_dict().values(), path.stat().st_size
    numbers = sum(t.numel() for t in tensors)
    most = 8 * numbers + 1000 * len(tensors) + 10_000  # float64, and what safetensors writes about each tensor
    if not numbers <= size <= most:
        raise ValueError(f"{str(path)!r} has {size:,} bytes, expected {numbers:,} to {most:,} for the {numbers:,} "
                         f"numbers of the network that is described")


def fill_network(model: UNet, weights: dict[str, Tensor], source: str) -> UNet:
    "Give a blank network its numbers, as float32, or raise `ValueError` and give it none."
    check_tensors(weights, model.state_dict(), source)
    copies = {name: w.to(torch.float32, copy=True) for name, w in weights.items()}
    model.load_state_dict(copies, assign=True)
    return model.to(memory_format=torch.channels_last)  # as it is trained


def read_model(folder: Path) -> Denoiser:
    "The denoiser in a model folder, in eval mode. `ValueError` where it is damaged, changed or of another kind."
    architecture, others = _parts(read_json(folder / MANIFEST))
    model, source = blank_network(architecture), folder / WEIGHTS
    check_file_size(source, model)
    weights = tensors_from_bytes(read_verified(folder, WEIGHTS), str(source))
    return Denoiser(fill_network(model, weights, str(source)), **others).eval()


def is_hub_id(name: str | Path) -> bool:
    here = Path(name)
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name))) and not here.exists() and not here.parent.exists()


def fetch_from_hub(name: str, wanted: list[str], revision: str | None) -> Path:
    "The folder into which `huggingface_hub` has put the `wanted` files of a repository. `ValueError` where it cannot."
    try:
        from huggingface_hub import snapshot_download  # not needed for anything else
    except ImportError:
        raise ValueError(f"{name!r} is no folder here; for an id on the hub, pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # whatever the network has come up with
        raise ValueError(f"{name!r} is no folder here, and the hub does not give it: {error}") from error


def checkpoints(run: str | Path) -> list[Path]:
    "The checkpoint folders of a run, the newest first. Half-written ones have another name and are not among them."
    found = [p for p in Path(run).glob("checkpoints/step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)
