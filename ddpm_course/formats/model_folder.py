"""A folder that says what a model is, holds its weights, and runs no code when it is opened."""
import dataclasses
import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..forward import NoiseSchedule
from ..lib.arguments import check_choice, check_number
from ..lib.storage import (MANIFEST, check_tensors, read_json, read_verified, sha256, tensors_from_bytes,
                           tensors_to_bytes, whole_folder, write_folder)
from ..objective import VARIANCES, Denoiser
from ..schedules import SCHEDULES, make_schedule
from ..unet import UNet, UNetConfig
from .model_card import model_card, plain, plain_facts

FORMAT = "ddpm_course model, version 1"

WEIGHTS, CARD = "model.safetensors", "README.md"

MOST = 1_000_000  # no size in somebody else's JSON may be larger


def schedule_from_config(config: dict) -> NoiseSchedule:
    "The schedule that `schedule_to_config` described."
    if "betas" in config:
        return NoiseSchedule(torch.tensor(config["betas"], dtype=torch.float64))
    T = check_number("num_timesteps", config["num_timesteps"], 1, 100_000, whole=True)
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
    "Everything but the weights, as JSON: architecture, schedule, prediction, shape and range of the images, classes."
    return {"format": FORMAT, "architecture": dataclasses.asdict(network_of(denoiser).config),
            "schedule": schedule_to_config(denoiser.schedule), "prediction": denoiser.prediction,
            **{name: plain(name, getattr(denoiser, name)) for name in ("variance", "shape", "clip", "classes")}}


def read_architecture(config: dict) -> UNetConfig:
    "Somebody else's JSON as a `UNetConfig`: each value of the right type, and none without bounds."
    for field in dataclasses.fields(UNetConfig):
        value, kind = config.get(field.name, field.default), type(field.default)
        if kind is bool and type(value) is not bool or kind is float and type(value) not in (int, float) \
                or kind is tuple and not isinstance(value, (list, tuple)):
            raise ValueError(f"{field.name} is {value!r:.80}, expected {'a list' if kind is tuple else kind.__name__}")
        if kind is int or kind is tuple or value is not None and kind is type(None):
            for number in value if kind is tuple else [value]:
                check_number(field.name, number, 1, 100 if field.name == "num_res_blocks" else MOST, whole=True)
    return UNetConfig(**config)


def check_classes(names, num_classes: int | None) -> list[str] | None:
    "The names of the classes, where there are any: one for each class that the network knows."
    if names is not None and not (isinstance(names, list) and len(names) == (num_classes or 0)
                                  and all(isinstance(name, str) for name in names)):
        raise ValueError(f"classes is {names!r:.80}, expected null or the names of the {num_classes or 0} classes")
    return names


def read_description(config: dict) -> tuple[UNetConfig, dict]:
    "What `describe` gave, checked: the architecture, and the arguments of `Denoiser` other than the network."
    if config.get("format") != FORMAT:
        raise ValueError(f"format is {config.get('format')!r:.80}, expected {FORMAT!r}")
    try:
        architecture, clip = read_architecture(config["architecture"]), config["clip"]
        shape = tuple(check_number("shape", size, 1, MOST, whole=True) for size in config["shape"])
        if len(shape) != 3 or shape[0] != architecture.image_channels:
            raise ValueError(f"shape is {shape}, expected ({architecture.image_channels}, height, width)")
        if clip is not None and not (len(clip) == 2 and -math.inf < clip[0] < clip[1] < math.inf):
            raise ValueError(f"clip is {clip!r:.80}, expected null or two numbers, the smaller first")
        return architecture, {"schedule": schedule_from_config(config["schedule"]), "shape": shape,
                              "prediction": config["prediction"], "clip": clip and tuple(map(float, clip)),
                              "variance": check_choice("variance", config.get("variance", "small"), VARIANCES),
                              "classes": check_classes(config.get("classes"), architecture.num_classes)}
    except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the model's {MANIFEST} has a missing or unexpected entry: {error}") from error


def build(config: dict) -> Denoiser:
    "A denoiser with fresh weights from what `describe` gave. `ValueError` for an unknown format or a bad value."
    architecture, others = read_description(config)
    return Denoiser(UNet(architecture), **others)


def check_target(folder: Path, index: str, is_ours, expected=()) -> dict:
    """
    A folder may be written if it is new, empty, or a model of ours and nothing more; else it stays untouched.

    Returns what the `index` of that model says, nothing for a new one.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file, expected a folder to write the model to")
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    about = read_json(folder / index) if (folder / index).is_file() else {}
    if not is_ours(about):
        raise ValueError(f"{str(folder)!r} holds something else, expected a new or empty folder, or a model's")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if strangers := sorted(there - {index, *(expected or _listed(about))}):
        raise ValueError(f"{str(folder)!r} holds {strangers[0]!r}, which is no part of the model and would be lost")
    return about


def _listed(about: dict) -> dict:
    "The fingerprints of a folder's files."
    files = about.get("files")
    return files if isinstance(files, dict) else {}


def card_or_own_words(folder: Path, card: bytes, recorded: str | None) -> bytes:
    "The README to write: our `card`, unless the one in the folder is not ours, whose SHA-256 was `recorded`."
    if not (folder / CARD).is_file() or sha256(there := (folder / CARD).read_bytes()) == recorded:
        return card
    warnings.warn(f"{str(folder / CARD)!r} was written by hand and is kept; delete it first for a new model card")
    return there


def title_of(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name


def write_model(denoiser: Denoiser, folder: str | Path, *, facts: dict | None = None, half: bool = False,
                extra_files: dict[str, bytes] | None = None, extra_config: dict | None = None) -> None:
    """
    Write a model folder as `save_pretrained` says; `extra_files` and `extra_config` are what a checkpoint adds.

    Private paths are kept out of `facts` and `extra_config`, see `plain`.
    """
    folder, facts, extra = Path(folder), plain_facts(facts), plain("extra_config", extra_config or {})
    there = whole_folder(folder)
    old = check_target(there, MANIFEST, lambda about: about.get("format") == FORMAT)
    model, about = network_of(denoiser), describe(denoiser)
    weights = {k: v.half() if half else v for k, v in model.state_dict().items()}
    read_description(about)  # what could not be loaded is not saved
    check_tensors(weights, weights, "the model")
    card = model_card(about, count_parameters(model), title_of(folder), facts).encode()
    ours = old.get("card") or _listed(old).get(CARD)
    content = {WEIGHTS: tensors_to_bytes(weights), **(extra_files or {}), CARD: card_or_own_words(there, card, ours)}
    write_folder(folder, content, {**about, "facts": facts, "card": sha256(card), **extra})


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
    folder = whole_folder(folder)
    architecture, others = read_description(read_json(folder / MANIFEST))
    model, source = blank_network(architecture), folder / WEIGHTS
    check_file_size(source, model)
    weights = tensors_from_bytes(read_verified(folder, WEIGHTS), str(source))
    return Denoiser(fill_network(model, weights, str(source)), **others).eval()


def checkpoints(run: str | Path) -> list[Path]:
    "The checkpoint folders of a run, the newest first. Half-written ones have another name and are not among them."
    found = [p for p in Path(run).glob("checkpoints/step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def read_run(run: Path) -> Denoiser:
    "The denoiser in the newest checkpoint of a run that can be read; a newer one is passed over with a warning."
    there, reasons = checkpoints(run), []
    for folder in there:
        try:
            return read_model(folder)
        except (ValueError, OSError) as error:
            reasons.append(f"{folder.name} is passed over: {error}")
            warnings.warn(reasons[-1])
    raise ValueError(f"none of the {len(there)} checkpoints in {str(run)!r} can be read; {reasons[0]}")
