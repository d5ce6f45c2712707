"""Everything a training run depends on, and what is refused before it begins."""
import dataclasses
import json
import math
import os
import typing
from typing import Literal

from ..lib.arguments import check_choice, check_number


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    "Everything a training run depends on. The defaults draw digits after a few minutes on two CPU cores."
    # The images, and how they are read.
    data: str = "digits"  # digits, emoji, a folder, or mnist, fashion-mnist, cifar10, cifar100, flowers102, celeba.
    image_size: int | None = None  # Side of the square images in pixels; None: 28, or 32 for emoji and CIFAR.
    channels: int | None = None  # 1 for grey images, 3 for colour; None: 1, or 3 for sets in colour.
    download: bool = False  # Whether a named data set may be downloaded into "data".
    holdout: float = 0.1  # Share of a folder's images kept aside to measure the loss; named sets have a test part.
    background: int = 255  # Grey level behind transparent places, 0 to 255.
    max_skipped: float = 0.1  # Share of a folder's images that may be unreadable.
    memory: float = 4.0  # Images are held in memory up to so many GiB; a larger set is decoded as it is needed.
    workers: int = 2  # Processes that decode images which are not held in memory.
    # The model: its network, what it predicts, at which noise levels.
    prediction: Literal["eps", "x0", "v"] = "v"  # What the network answers with.
    schedule: Literal["linear", "cosine", "sigmoid", "exponential"] = "cosine"  # The noise schedule.
    num_timesteps: int = 1000  # Noise levels.
    weighting: Literal["simple", "vlb", "min_snr"] = "simple"  # How the levels are weighted in the loss.
    base_channels: int = 32  # Channels of the network's first level.
    channel_mults: tuple[int, ...] = (1, 2)  # Channels of each level, in multiples of base_channels.
    num_res_blocks: int = 1  # Residual blocks a level.
    attention_resolutions: tuple[int, ...] | None = None  # Feature map sides with attention; None: the smallest.
    heads: int = 1  # Attention heads.
    groups: int = 8  # Groups of the group normalisation.
    dropout: float = 0.0  # Share of activations dropped in each residual block.
    patch_size: int = 2  # Side of the squares of pixels folded into channels, for speed.
    conditional: bool | None = None  # Whether the network learns the labels; None means where the data have any.
    label_dropout: float = 0.1  # Share of labels hidden, so that the network also learns to do without.
    init: str | None = None  # Start from the weights of this model folder or bundled model.
    # The training.
    flip: bool = False  # Whether to mirror half of the images. Not for digits or text.
    steps: int = 3000  # Updates of the weights.
    batch_size: int = 32  # Images an update, over all processes.
    accumulate: int = 1  # Parts that a process's share of the batch is split into, to save memory.
    lr: float = 1e-3  # Highest learning rate.
    warmup: int = 100  # Updates over which the learning rate rises to it.
    decay: float = 0.5  # Share of the run, at its end, in which the learning rate falls to 0.
    grad_clip: float = 1.0  # Largest norm of the gradient.
    ema: float = 0.995  # Decay of the average of the weights, from which samples are drawn.
    precision: Literal["float32", "bf16", "fp16"] = "float32"  # What the network computes in.
    compile: bool = False  # Whether torch.compile makes the network faster, after a slow start.
    seed: int = 0  # Fixes the weights at the start, the order of images, times and noise.
    device: str = "auto"  # auto, cpu, cuda, mps, or a device such as cuda:1.
    # The run: what it writes, and when.
    out: str = "runs/digits"  # The run folder to write.
    resume: bool = False  # Go on from the newest checkpoint in the run folder.
    log_every: int = 50  # Updates from one line of metrics.jsonl to the next.
    save_every: int = 1000  # Updates from one checkpoint to the next.
    keep: int = 2  # Newest checkpoints kept, 2 or more; the one with the lowest validation loss is kept besides.
    validation: int = 512  # Held-out images on which the loss is measured at each checkpoint; 0 for none.
    evaluate_every: int = 0  # Updates from one Frechet distance of 200 samples to the next, for digits; 0 for none.
    previews: int = 16  # Images drawn at each checkpoint; 0 for none.
    samples: int = 64  # Images in samples.png at the end.
    sample_steps: int = 50  # Steps of the sampler for them.
    guidance: float = 2.0  # How strictly pictures follow labels: 1 as learned, more for clearer images.
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # Where to send the metrics besides.

    def __post_init__(self):
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))
        for name, own in zip(("image_size", "channels"), OWN_SHAPES.get(self.data, (28, 1))):
            object.__setattr__(self, name, own if getattr(self, name) is None else getattr(self, name))
        if self.sample_steps > self.num_timesteps:
            raise ValueError(f"sample_steps is {self.sample_steps}, expected at most num_timesteps = "
                             f"{self.num_timesteps}")


OWN_SHAPES = {"emoji": (32, 3), "cifar10": (32, 3), "cifar100": (32, 3), "flowers102": (32, 3), "celeba": (32, 3)}

RECIPES = {  # what the program trains with where nothing else is said; benchmarks/emoji_search.py
    "emoji": {"out": "runs/emoji", "flip": True, "schedule": "sigmoid", "weighting": "min_snr", "lr": 2e-3,
              "batch_size": 16, "steps": 16_000, "save_every": 4000}}

RANGES = {name: limits for names, limits in (  # other numbers are checked where they are used
    ("image_size patch_size steps batch_size accumulate num_timesteps log_every save_every samples sample_steps",
     {"low": 1}),
    ("warmup validation evaluate_every previews memory workers", {"low": 0}),
    ("lr grad_clip", {"low": 0, "above": True}),
    ("decay label_dropout max_skipped", {"low": 0, "high": 1}),
    ("ema holdout", {"low": 0, "high": 1, "below": True}),
    ("guidance", {"low": 0, "high": math.inf, "below": True}),
    ("background", {"low": 0, "high": 255}), ("keep", {"low": 2}), ("seed", {"low": 0, "high": 2**63 - 1}),
) for name in names.split()}


def _checked(name: str, value, kind):
    "`value` as the plain value that the annotation `kind` asks for. `ValueError` that names it where it is none."
    choices = typing.get_args(kind)
    if type(None) in choices:
        return None if value is None else _checked(name, value, choices[0])
    if typing.get_origin(kind) is Literal:
        return check_choice(name, value, choices)
    if kind is bool:
        return check_choice(name, value, (False, True))
    if kind in (int, float):
        return check_number(name, value, whole=kind is int, **RANGES.get(name, {}))
    if kind is str:
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"{name} is {value!r}, expected text")
        folder = name == "data" and isinstance(value, os.PathLike)  # Path("./digits") says "digits", and is a folder
        return os.path.join(os.curdir, os.fsdecode(value)) if folder else os.fsdecode(value)
    if isinstance(value, str) or not hasattr(value, "__iter__"):  # a tuple, or a list from JSON
        raise ValueError(f"{name} is {value!r}, expected whole numbers such as (1, 2)")
    return tuple(check_number(name, number, whole=True) for number in value)


def architecture(c: TrainConfig, num_classes: int | None):
    "The network that a configuration asks for, a `UNetConfig`. `num_classes` is None for a model without labels."
    from ..unet import UNetConfig  # torch takes seconds to load, and the program's --help does without
    smallest = c.image_size // c.patch_size // 2 ** (len(c.channel_mults) - 1)
    attention = (smallest,) if c.attention_resolutions is None else c.attention_resolutions
    return UNetConfig(
        image_size=c.image_size, image_channels=c.channels, base_channels=c.base_channels,
        channel_mults=c.channel_mults, num_res_blocks=c.num_res_blocks, attention_resolutions=attention, heads=c.heads,
        dropout=c.dropout, groups=c.groups, patch_size=c.patch_size, num_classes=num_classes,
        null_label=c.label_dropout > 0)


FREE_TO_CHANGE = {"data", "out", "resume", "device", "accumulate", "compile", "memory", "workers", "download",
                  "max_skipped", "steps", "log_every", "save_every", "keep", "evaluate_every", "previews", "samples",
                  "sample_steps", "guidance", "tracker"}  # of data the fingerprint decides, and steps may be added


def without_folders(config: dict) -> dict:
    "A configuration for others' eyes: of each path the last part only."
    return config | {k: os.path.basename(os.path.normpath(config[k])) for k in ("data", "out", "init") if config.get(k)}


def check_same(trained: dict, config: TrainConfig, where: str) -> None:
    "`ValueError` that names the fields in which a run and a configuration differ, if they change the result."
    now = without_folders(json.loads(json.dumps(dataclasses.asdict(config))))
    was = {f.name: f.default for f in dataclasses.fields(config)} | without_folders(trained)  # old runs know fewer
    different = [f"{k} (was {was[k]!r}, now {now[k]!r})" for k in now if k not in FREE_TO_CHANGE and was[k] != now[k]]
    if different:
        raise ValueError(f"{where} has another configuration: {'; '.join(different)}; "
                         f"expected the same, or another run folder")
