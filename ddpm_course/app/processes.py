"""The device, the other processes of a run, and the signals that may end it."""
import contextlib
import os
import signal
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data import ImageDataset
from ..lib.images import UnreadableImage, batches
from ..training import TrainState
from .config import TrainConfig


def pick_device(name: str = "auto") -> torch.device:
    "The device of that name; for \"auto\" the first there is of cuda, mps, cpu. `ValueError` where it is not there."
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in there or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise ValueError(f"device is {name!r}, expected auto or one that this machine has: {', '.join(there)}")
    return device


def make_accelerator(c: TrainConfig) -> Accelerator:
    "What knows about the other processes of this run, and about trackers. Precision is ours to decide, below."
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    wanted = None if c.tracker == "none" else c.tracker
    accelerator = Accelerator(mixed_precision="no", cpu=several and c.device == "cpu", log_with=wanted,
                              project_dir=c.out)
    if wanted and not accelerator.log_with:
        raise ValueError(f"tracker is {wanted!r}, whose package is missing: pip install {wanted}")
    if c.batch_size % (accelerator.num_processes * c.accumulate):
        raise ValueError(f"batch_size is {c.batch_size}, expected a multiple of {accelerator.num_processes} "
                         f"(processes) times {c.accumulate} (accumulate)")
    return accelerator


def fetched(state: TrainState, data: ImageDataset, indices: Iterator[Tensor], workers: int) -> Iterator:
    "The batches, as long as every process can read its own: where one cannot, all of them stop before the update."
    loader = iter(batches(data, indices, workers=workers))
    agree = state.ranks > 1 and not isinstance(data.images, Tensor)  # what is in memory can be read by all
    while True:
        batch = trouble = None
        try:
            batch = next(loader, None)
        except UnreadableImage as error:
            trouble = error
        if agree:
            bad = state.accelerator.gather(torch.tensor([int(trouble is not None)], device=state.device)).any()
            if bad and trouble is None:
                trouble = UnreadableImage("an image could not be read by another process")
        if trouble:
            raise trouble
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def interruptible():
    "Ctrl-C and SIGTERM let the step in progress end: yields a list that is no longer empty once one has come."
    received, old = [], {}
    def handler(number, frame):
        received.append(number)
        signal.signal(number, old[number])  # a second one acts at once
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handler)
    except ValueError:
        pass  # not in the main thread: signals do not come here
    try:
        yield received
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def stop_now(received: list[int], state: TrainState, at_line: bool) -> int:
    """
    The signal that ends the run, or 0. Several processes have to agree: on a CPU they ask each other after each update,
    on graphics cards, which would have to be waited for, at each line of the log.
    """
    if state.ranks == 1:
        return received[0] if received else 0
    if not at_line and state.device.type != "cpu":
        return 0
    mine = torch.tensor(received[0] if received else 0, device=state.device)
    return int(state.accelerator.gather(mine[None]).max())
