"""The options of each command: the fields of a dataclass, read from the command line or from a JSON file."""
import argparse
import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterable
from pathlib import Path

from ..lib.arguments import check_number
from .config import TrainConfig


def _check_drawing(config) -> None:
    "What every command that draws images needs."
    for name in ("n", "steps", "batch_size"):
        check_number(name, getattr(config, name), 1, whole=True)
    check_number("seed", config.seed, 0, 2**63 - 1, whole=True)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    "Draw images with a trained model and save them: as one picture, or each as a file of its own."
    run: str  # A run folder, a model folder, or the name of a bundled model such as digits.
    n: int = 64  # How many images.
    y: str | None = None  # Classes to draw in turn, by name or number, such as cat or "cat,dog"; None: every class.
    guidance: float = 2.0  # How strictly labels are followed: 1 as learned, more for clearer images.
    out: str = "samples.png"  # The picture to write, or with --each a new folder, which is "samples" by default.
    each: bool = False  # Write one PNG an image, in the size of the images, instead of one picture of them all.
    seed: int = 0  # The same seed gives the same images.
    steps: int = 50  # Calls of the network for each.
    eta: float = 0.0  # Share of fresh noise in each step, from 0 (DDIM) to 1 (DDPM).
    batch_size: int = 64  # Images drawn at a time, to save memory.
    device: str = "auto"  # auto, cpu, cuda, mps, or a device such as cuda:1.

    def __post_init__(self):
        _check_drawing(self)


@dataclasses.dataclass(frozen=True)
class InfoConfig:
    "Say what a run was trained on, what it trains and where it stands; or what a model is."
    run: str  # A run folder, a model folder, or the name of a bundled model such as digits.


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    "Say how good a model's images are: print scores with intervals beside those of real images, write them as JSON."
    run: str  # A run folder, a model folder, or the name of a bundled model such as digits.
    data: str | None = None  # The real images: a set or a folder; None: those the run was trained on.
    n: int = 1000  # How many images to draw; scores compare only at the same number.
    guidance: float = 1.0  # How strictly labels are followed: 1 as learned.
    out: str = "evaluation"  # The files to write, OUT.json and OUT.png with the nearest training images.
    seed: int = 0  # The same seed gives the same images.
    steps: int = 50  # Calls of the network for each.
    eta: float = 0.0  # Share of fresh noise in each step, from 0 (DDIM) to 1 (DDPM).
    batch_size: int = 64  # Images drawn at a time, to save memory.
    device: str = "auto"  # auto, cpu, cuda, mps, or a device such as cuda:1.

    def __post_init__(self):
        _check_drawing(self)


CONFIGS = {"train": TrainConfig, "sample": SampleConfig, "info": InfoConfig, "evaluate": EvaluateConfig}

GROUPS = {  # of `ddpm_course train --help`: each field of TrainConfig stands in one of them
    "the ten that matter": "data out steps image_size channels batch_size base_channels lr device resume",
    "images": "download flip holdout background max_skipped memory workers",
    "network": "channel_mults num_res_blocks attention_resolutions heads groups dropout patch_size conditional init",
    "diffusion": "prediction schedule num_timesteps weighting label_dropout",
    "updates of the weights": "warmup decay grad_clip ema accumulate precision compile seed",
    "what is written": "log_every save_every keep validation evaluate_every previews samples sample_steps guidance "
                       "tracker"}

NUMBERS = {int: ("N", "a whole number"), float: ("X", "a number")}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    "What a misspelt word may have meant, as the end of a sentence about it; empty where nothing is close."
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _reader(kind: type, optional: bool):
    "What reads the text of an option as a value of this kind."
    def read(text: str):
        if optional and text == "None":
            return None
        try:
            return {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            expected = "True or False" if kind is bool else NUMBERS[kind][1]
            raise argparse.ArgumentTypeError(f"is {text!r}, expected {expected}{' or None' * optional}") from None
    return read


def _add_option(group, field: dataclasses.Field, kind, explanation: str) -> None:
    "A field without a default is named by its position; a tuple takes any number of values."
    if field.default is dataclasses.MISSING:
        group.add_argument(field.name, metavar=field.name.upper(), help=explanation)
        return
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    how = {"default": argparse.SUPPRESS, "help": f"{explanation} (default: {default})".replace("%", "%%")}
    kinds = typing.get_args(kind)
    optional = type(None) in kinds
    kind = kinds[0] if optional else kind
    if typing.get_origin(kind) is tuple:
        kind, how["nargs"] = typing.get_args(kind)[0], "*"
    if typing.get_origin(kind) is typing.Literal:
        how["metavar"] = "{" + ",".join(typing.get_args(kind)) + "}"  # another value is refused by the configuration
    elif kind is bool and not optional:
        how["action"] = argparse.BooleanOptionalAction
    elif kind is bool:
        how |= {"type": _reader(kind, optional), "metavar": "{True,False,None}"}
    else:
        how |= {"type": _reader(kind, optional), "metavar": NUMBERS.get(kind, (field.name.upper(),))[0]}
    group.add_argument("--" + field.name.replace("_", "-"), **how)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def make_parser(command: str) -> argparse.ArgumentParser:
    "What reads the options of a command and, for `--help`, explains each in the words of the comment at its field."
    config = CONFIGS[command]
    parser = _Parser(
        f"ddpm_course {command}", usage=f"%(prog)s {'[options]' if command == 'train' else 'RUN [options]'}",
        description=config.__doc__, allow_abbrev=False, add_help=False, exit_on_error=False)
    fields = {field.name: field for field in dataclasses.fields(config)}
    kinds = typing.get_type_hints(config)
    explained = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(config), re.MULTILINE))
    for title, names in GROUPS.items() if command == "train" else [("options", " ".join(fields))]:
        group = parser.add_argument_group(title)
        for name in names.split():
            _add_option(group, fields[name], kinds[name], explained[name])
    group = parser.add_argument_group("besides")
    if command == "train":
        group.add_argument("--config", metavar="FILE", nargs="?", const="", default=argparse.SUPPRESS, help="Take "
                           "options that are not given from this JSON file, such as the config.json of a run.")
    group.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS,
                       help="Where something is refused, show where in the code.")
    group.add_argument("-h", "--help", action="help", help="Show this and exit.")
    return parser


def read_options(command: str, args: list[str]) -> dict:
    "The options that are given in `args`, by the names of their fields. `ValueError` that names what is wrong."
    parser = make_parser(command)
    args = [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), arg) for arg in args]  # --batch_size is meant
    try:
        given, unknown = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ValueError(" ".join(filter(None, (error.argument_name, error.message)))) from None
    if unknown:
        word = next((w for w in unknown if w.startswith("-")), unknown[0]).partition("=")[0]
        options = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(CONFIGS[command])]
        raise ValueError(f"{word!r} is unknown, expected options that `ddpm_course {command} --help` lists"
                         f"{did_you_mean(word, options)}")
    return {name: (None if value == [None] else tuple(value)) if isinstance(value, list) else value
            for name, value in vars(given).items()}


def saved_config(path: str | Path) -> TrainConfig:
    "The configuration in a JSON file, such as a run's config.json. `ValueError` that names an unknown or wrong entry."
    from ..lib.storage import read_json  # needs torch, which takes seconds to load
    saved = read_json(path)
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in saved:
        if name not in known:
            raise ValueError(f"{str(path)!r} has the entry {name!r}, expected options of `ddpm_course train`"
                             f"{did_you_mean(name, known)}")
    try:
        return TrainConfig(**saved)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None
