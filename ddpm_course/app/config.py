"""Everything a training run depends on, and what is refused before it begins."""
import dataclasses
import json
from typing import Literal

from ..objective import WEIGHTINGS
from ..training import HALF
from ..unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    "Which images a run is trained on, and how they are read."
    data: str = "digits"  # digits (bundled), a folder, or mnist, fashion-mnist, cifar10, cifar100, flowers102, celeba.
    image_size: int = 28  # Side of the square images in pixels.
    channels: int = 1  # 1 for grey images, 3 for colour.
    download: bool = False  # Whether a named data set may be downloaded into "data".
    holdout: float = 0.1  # Share of a folder's images kept aside to measure the loss; named sets have a test part.
    background: int = 255  # Grey level behind transparent places, 0 to 255.
    max_skipped: float = 0.1  # Share of a folder's images that may be unreadable.
    memory: float = 4.0  # Images are held in memory up to so many GiB; a larger set is decoded as it is needed.
    workers: int = 2  # Processes that decode images which are not held in memory.


@dataclasses.dataclass(frozen=True)
class ModelConfig(DataConfig):
    "Which model is trained: its network, what it predicts, at which noise levels."
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


@dataclasses.dataclass(frozen=True)
class TrainConfig(ModelConfig):
    "Everything a training run depends on. The defaults draw digits after a few minutes on two CPU cores."
    out: str = "runs/digits"  # The run folder to write.
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
    log_every: int = 50  # Updates from one line of metrics.jsonl to the next.
    save_every: int = 1000  # Updates from one checkpoint to the next.
    keep: int = 2  # Newest checkpoints kept, 2 or more; the one with the lowest validation loss is kept besides.
    validation: int = 512  # Held-out images on which the loss is measured at each checkpoint; 0 for none.
    previews: int = 16  # Images drawn at each checkpoint; 0 for none.
    samples: int = 64  # Images in samples.png at the end.
    sample_steps: int = 50  # Steps of the sampler for them.
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # Where to send the metrics besides.
    resume: bool = False  # Go on from the newest checkpoint in the run folder.

    def __post_init__(self):
        _check_config(self)


def _check_config(c: TrainConfig) -> None:
    for name in ("channel_mults", "attention_resolutions"):  # JSON gives lists
        object.__setattr__(c, name, getattr(c, name) and tuple(getattr(c, name)))
    at_least = dict.fromkeys(("image_size", "patch_size", "steps", "batch_size", "accumulate", "num_timesteps",
                              "log_every", "save_every", "samples", "sample_steps"), 1) | {"keep": 2}
    at_least |= dict.fromkeys(("warmup", "validation", "previews", "memory", "workers"), 0)
    for name, low in at_least.items():
        if getattr(c, name) < low:
            raise ValueError(f"{name} is {getattr(c, name)}, expected {low} or more")
    for name in ("lr", "grad_clip"):
        if not getattr(c, name) > 0:
            raise ValueError(f"{name} is {getattr(c, name)}, expected more than 0")
    for name, top in (("decay", 1), ("label_dropout", 1), ("ema", 0.9999999), ("holdout", 0.9999999),
                      ("max_skipped", 1), ("background", 255)):
        if not 0 <= getattr(c, name) <= top:
            raise ValueError(f"{name} is {getattr(c, name)}, expected 0 to {top if top >= 1 else 'below 1'}")
    if c.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {c.weighting!r}, expected one of {WEIGHTINGS}")
    if c.precision not in ("float32", *HALF):
        raise ValueError(f"precision is {c.precision!r}, expected float32, bf16 or fp16")
    if c.sample_steps > c.num_timesteps:
        raise ValueError(f"sample_steps is {c.sample_steps}, expected at most num_timesteps = {c.num_timesteps}")


def architecture(c: TrainConfig, num_classes: int | None) -> UNetConfig:
    "The network that a configuration asks for. `num_classes` is None for a model without labels."
    smallest = c.image_size // c.patch_size // 2 ** (len(c.channel_mults) - 1)
    attention = (smallest,) if c.attention_resolutions is None else c.attention_resolutions
    return UNetConfig(
        image_size=c.image_size, image_channels=c.channels, base_channels=c.base_channels,
        channel_mults=c.channel_mults, num_res_blocks=c.num_res_blocks, attention_resolutions=attention, heads=c.heads,
        dropout=c.dropout, groups=c.groups, patch_size=c.patch_size, num_classes=num_classes,
        null_label=c.label_dropout > 0)


FREE_TO_CHANGE = {"out", "resume", "device", "accumulate", "compile", "memory", "workers", "download", "max_skipped",
                  "log_every", "save_every", "keep", "previews", "samples", "sample_steps", "tracker"}


def check_same(trained: dict, config: TrainConfig, where: str) -> None:
    "`ValueError` that names the fields in which a run and a configuration differ, if they change the result."
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    different = [f"{k} (was {trained.get(k)!r}, now {now[k]!r})" for k in now
                 if k not in FREE_TO_CHANGE and trained.get(k) != now[k]]
    if different:
        raise ValueError(f"{where} has another configuration: {'; '.join(different)}; "
                         f"expected the same, or another run folder")
