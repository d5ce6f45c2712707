"""What suits a machine: a configuration by what is known of its device, and a batch that fits into its memory."""
import dataclasses
import gc
import platform
from collections.abc import Callable
from importlib.util import find_spec

import torch

from ..training import train_step
from .config import TrainConfig
from .images import load_data
from .run import new_state
from .terminal import say

SMALL = {"base_channels": 8, "groups": 4, "channel_mults": (1, 2, 2), "patch_size": 1, "batch_size": 32, "steps": 120,
         "lr": 4e-3, "warmup": 20, "ema": 0.98, "save_every": 40, "log_every": 10, "validation": 128}
FULL = {"data": "mnist", "download": True, "base_channels": 32, "groups": 8, "channel_mults": (1, 2, 2),
        "num_res_blocks": 2, "patch_size": 1, "batch_size": 512, "steps": 10_000, "lr": 2e-3, "warmup": 200,
        "ema": 0.999, "save_every": 2500, "log_every": 50}


def look_around(device: torch.device) -> dict:
    "What is known of a device: its kind and name; of an NVIDIA GPU also memory in GiB, compute capability, triton."
    facts = {"device": device.type, "name": platform.machine(), "memory_gib": None, "capability": None, "triton": False}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts |= {"name": about.name, "memory_gib": about.total_memory / 2**30,
                  "capability": float(f"{about.major}.{about.minor}"), "triton": find_spec("triton") is not None}
    return facts


def choose(facts: dict) -> tuple[dict, list[str]]:
    """
    Options of a `TrainConfig` for a run on digits that suits such a device, and the reason for each decision.

    `facts`: as `look_around` gives them.
    """
    if facts["device"] == "cpu":
        return dict(SMALL), ["no GPU: a small network and 120 updates, which show that everything runs"]
    if facts["device"] == "mps":
        return FULL | {"batch_size": 128, "steps": 2000}, ["Apple GPU: the full network, fewer updates, in float32"]
    fields, why, capability = dict(FULL), ["NVIDIA GPU: the full size"], facts["capability"]
    if capability >= 8:
        fields |= {"precision": "bf16"}
        why.append(f"compute capability {capability}: the matrix units multiply bf16")
    elif capability >= 7:
        fields |= {"precision": "fp16", "steps": 4000}
        why.append(f"compute capability {capability}: no fast bf16, so fp16 with a scaled loss, and fewer updates")
    else:
        fields |= {"steps": 2000}
        why.append(f"compute capability {capability}: no fast 16-bit numbers, so float32, and fewer updates")
    fields |= {"compile": facts["triton"] and capability >= 7}
    why.append("torch.compile: " + ("on" if fields["compile"] else "off, because triton or the capability is missing"))
    if facts["memory_gib"] < 10:
        fields |= {"accumulate": 4}
        why.append(f"{facts['memory_gib']:.0f} GiB of memory: the batch goes through in four parts")
    return fields, why


def images_for(config: TrainConfig) -> tuple:
    "The images to train on, those held out, and the configuration that names them: where MNIST cannot be had, digits."
    try:
        return *load_data(config), config
    except (ValueError, OSError) as error:
        if config.data != "mnist":
            raise
        say(f"the bundled digits take the place of MNIST: {error}")
        config = dataclasses.replace(config, data="digits")
        return *load_data(config), config


def one_step(config: TrainConfig, data) -> None:
    "One update of a fresh network on the first images of `data`, only to see whether it works."
    index = torch.arange(config.batch_size, device=data.images.device) % len(data)
    train_step(new_state(config, data.classes), data.batch(index), config)


def make_it_fit(config: TrainConfig, attempt: Callable[[TrainConfig], None]) -> TrainConfig:
    """
    Double `accumulate` until `attempt(config)` has enough memory, and do without `compile` where it fails. Says so.

    `ValueError` where the parts cannot be halved any more. What else `attempt` raises is not ours.
    """
    while True:
        try:
            attempt(config)
            return config
        except Exception as error:
            too_little = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)  # Apple's
            if not too_little and not config.compile:
                raise
            reason = type(error).__name__  # the error itself would hold on to the memory
        if too_little:
            config = _in_more_parts(config)
        else:
            say(f"torch.compile does not work here ({reason}) and is switched off")
            config = dataclasses.replace(config, compile=False)


def _in_more_parts(config: TrainConfig) -> TrainConfig:
    "The same batch in twice as many parts, after whatever memory can be freed was freed."
    if config.batch_size % (2 * config.accumulate):
        raise ValueError(f"a part of {config.batch_size // config.accumulate} images does not fit and cannot be "
                         f"halved; expected a smaller network or batch")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    config = dataclasses.replace(config, accumulate=2 * config.accumulate)
    say(f"out of memory: the batch of {config.batch_size} now goes through in {config.accumulate} parts")
    return config
