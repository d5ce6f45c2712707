"""The device, the other processes of a run, and the signals that may end it."""
import contextlib
import multiprocessing
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import filelock
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..lib.arguments import check_multiple
from ..lib.images import ImageFiles, UnreadableImage, batches
from ..training import TrainState
from .config import TrainConfig
from .terminal import say


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
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    wanted = None if c.tracker == "none" else c.tracker
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # the others wait while the first decodes the images
    accelerator = Accelerator(mixed_precision="no", cpu=several and c.device == "cpu", log_with=wanted,
                              project_dir=c.out, kwargs_handlers=[patient])
    if wanted and not accelerator.log_with:
        raise ValueError(f"tracker is {wanted!r}, whose package is missing: pip install {wanted}")
    n = accelerator.num_processes
    check_multiple("batch_size", c.batch_size, n * c.accumulate, f"{n} (processes) times {c.accumulate} (accumulate)")
    return accelerator


def read_once(accelerator: Accelerator, read: Callable):
    "What `read` answers or raises, asked of the first process alone and sent to the others."
    if accelerator.num_processes == 1:
        return read()
    answer = [None]
    if accelerator.is_main_process:
        try:
            answer = [read()]
        except (ValueError, OSError) as error:
            answer = [error]
    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def fetched(state: TrainState, data, indices: Iterator[Tensor], workers: int) -> Iterator:
    "The batches, as long as every process can read its own: where one cannot, all of them stop before the update."
    in_files = isinstance(getattr(data, "images", None), ImageFiles)
    loader = iter(batches(data, indices, workers=workers) if in_files else map(data.batch, indices))
    agree = state.ranks > 1 and in_files  # what is in memory can be read by all
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


SIGNALS = [getattr(signal, name)  # not every system has all of them
           for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
           if hasattr(signal, name)]


@contextlib.contextmanager
def interruptible():
    """
    Ctrl-C, SIGTERM, SIGHUP (the terminal was closed) and the signals by which batch systems warn (SIGUSR1, SIGUSR2, and
    SIGXCPU where the processor time runs out) let the step in progress end: yields a list that is no longer empty once
    one has come.
    """
    received, old = [], {}
    def handler(number, frame):
        received.append(number)
        if number in (signal.SIGINT, signal.SIGTERM):  # a terminal that is closed says so more than once
            signal.signal(number, old[number])  # a second one acts at once
    try:
        for number in SIGNALS:
            old[number] = signal.signal(number, handler)
            if old[number] == signal.SIG_IGN and number not in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # under nohup
    except ValueError:
        pass  # not in the main thread: signals do not come here
    try:
        yield received
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


LOCK, HOLDER = ".lock", ".lock.holder"


@contextlib.contextmanager
def locked(folder: Path):
    """
    While this goes on no other run may write into `folder`, which is made and, where nothing came of it, removed.

    The operating system holds the lock, and lets go of it when the process ends, however it does. `ValueError` that
    names the process which holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = filelock.FileLock(folder / LOCK), folder / HOLDER
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "an unknown process"
        raise ValueError(f"out is {str(folder)!r}, into which another run is writing ({who}); expected another folder, "
                         f"or the end of that run") from None
    except (OSError, NotImplementedError) as error:
        warnings.warn(f"{str(folder)!r} lies where files cannot be locked ({error}): let only one run write there")
    try:
        with contextlib.suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        for leftover in (holder, folder / LOCK):
            with contextlib.suppress(OSError):  # Windows removes the second on its own
                leftover.unlink()
        lock.release()
        with contextlib.suppress(OSError):  # the first that is not empty stays, and so do those above it
            for path in made:
                path.rmdir()


def safe_workers(workers: int) -> int:
    """
    `workers`; 0 where a new process would run the user's script again from its first line, and so train as well.

    That is so where processes are not forked (Windows, macOS, Python from 3.14 on) and the script has no
    `if __name__ == "__main__":`.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__.py")
    if not workers or method == "fork" or script.name == "__main__.py" or not script.is_file() \
            or re.search(rb"^if\b.*__name__", script.read_bytes(), re.MULTILINE):
        return workers
    say(f'{script.name} has no `if __name__ == "__main__":`, so images are decoded by the process that trains')
    return 0


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
