"""A training run: a folder with its configuration, metrics, checkpoints, and pictures at the end."""
import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import ImageDataset, hold_out, load_images
from ..ddim import ddim_steps
from ..ddpm import Step
from ..formats.model_folder import checkpoints
from ..guidance import with_guidance
from ..lib import viz
from ..lib.images import NAMED_DATASETS, UnreadableImage, fingerprint
from ..lib.storage import MANIFEST, append_line, read_json, write_atomic, write_json
from ..objective import Denoiser
from ..training import TrainState, batch_index, check_finite, learning_rate, seed_of, train_step, validation_loss
from ..unet import UNet
from .checkpoints import resume_from, save_checkpoint
from .config import TrainConfig, architecture, check_same
from .processes import fetched, interruptible, make_accelerator, pick_device, stop_now


def load_data(c: TrainConfig) -> tuple[ImageDataset, ImageDataset | None]:
    "The images to train on and those held out, or None where there are none. `ValueError` as `load_images`."
    load = functools.partial(
        load_images, c.data, image_size=c.image_size, channels=c.channels, download=c.download, workers=c.workers,
        max_skipped=c.max_skipped, background=c.background, memory=c.memory)
    if c.data == "digits" or c.data in NAMED_DATASETS:
        return load(), load(split="test") if c.validation else None
    kept, held_out = hold_out(load(), c.holdout, c.seed)
    return kept, held_out if len(held_out) else None


def _open_run(config: TrainConfig) -> None:
    "Refuse to write into a folder that holds something, or to resume where there is nothing or something else."
    out = Path(config.out)
    if config.resume:
        if not (out / MANIFEST).is_file():
            raise ValueError(f"out is {config.out!r}, expected the folder of a run to resume; there is none")
        check_same(read_json(out / MANIFEST), config, f"the run in {config.out!r}")
    elif out.exists() and (not out.is_dir() or {p.name for p in out.iterdir()} - {f".{MANIFEST}.tmp"}):
        raise ValueError(f"out is {config.out!r}, which exists already; expected a new folder, or --resume to go on")
    elif config.data not in ("digits", *NAMED_DATASETS) and out.resolve().is_relative_to(Path(config.data).resolve()):
        raise ValueError(f"out is {config.out!r}, among the images in {config.data!r}; expected a folder elsewhere, or "
                         f"the pictures of the run would be taken for images to train on")


DATA = "data.json"


def describe_data(data: ImageDataset, held_out: ImageDataset | None) -> dict:
    "What data.json says: how many images, their classes and fingerprint, and which files were left out, and why."
    return {"images": len(data), "held_out": len(held_out or []), "classes": data.classes,
            "in_memory": isinstance(data.images, Tensor), "fingerprint": fingerprint(data),
            "skipped": [{"file": f, "reason": r} for f, r in data.skipped]}


def _check_run(config: TrainConfig, described: dict) -> None:
    "Before a run goes on: the images are those it was begun with, as far as can be told."
    was = read_json(path) if (path := Path(config.out) / DATA).exists() else described
    # The fingerprint of files sees their names and sizes only, so it cannot be compared with that of images in memory.
    alike = was.get("in_memory", described["in_memory"]) == described["in_memory"]
    if any(was.get(key) != described[key] for key in (("fingerprint",) if alike else ("images", "held_out"))):
        raise ValueError(f"the images in {config.data!r} have changed since the run was begun ({was.get('images')} "
                         f"then, {described['images']} now); expected the same, or another run folder")


def read_metrics(run: str | Path) -> list[dict]:
    "The lines of a run's metrics.jsonl; what a crash cut off is left out."
    path, rows = Path(run) / "metrics.jsonl", []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            row = json.loads(line)
            rows += [row] if {"loss", "step"} <= row.keys() and isinstance(row["step"], int) else []
    return rows


def new_state(config: TrainConfig, num_classes: int | None = None) -> TrainState:
    "The state of a run before its first update. Labels 0..num_classes-1 are learned; None for a model without labels."
    c, accelerator = config, make_accelerator(config)
    device = pick_device(c.device) if accelerator.num_processes == 1 else accelerator.device
    with torch.random.fork_rng([]):  # the weights come from the seed; the caller's random state stays as it is
        torch.manual_seed(seed_of(c.seed, 0))
        model = UNet(architecture(c, num_classes)).to(device, memory_format=torch.channels_last)
    return TrainState(model, c, accelerator)


def training_steps(state: TrainState, data: ImageDataset, config: TrainConfig) -> Iterator[tuple[int, Tensor]]:
    "Update until `config.steps` are done, yielding (updates done, loss) after each: the loop that a notebook can own."
    c = config
    indices = (batch_index(len(data), c.batch_size, step, c.seed)[state.rows(c.batch_size)]
               for step in range(state.step, c.steps))
    for batch in fetched(state, data, indices, c.workers):
        loss = train_step(state, batch, c)
        if state.step % c.log_every == 0 or state.step == c.steps:
            check_finite(state, c)
        yield state.step, loss


@contextlib.contextmanager
def _saved_before(kind: type, state: TrainState, config: TrainConfig):
    "What was trained is saved where an error of this `kind` comes between two updates, and the message says so."
    try:
        yield
    except kind as error:
        if not state.optimizer.state:  # nothing was trained yet
            raise
        if state.rank == 0 and f"step-{state.step:08d}" not in [p.name for p in checkpoints(config.out)]:
            save_checkpoint(state, config)
        saved = f"; the {state.step} updates until then are saved in {config.out!r}"
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{error.strerror}{saved}", error.filename) from error
        raise kind(f"{error}{saved}") from error


class _Metrics:
    "metrics.jsonl and the progress bar: a line every `log_every` updates and at each checkpoint."
    def __init__(self, state: TrainState, config: TrainConfig, bar):
        self.state, self.config, self.bar = state, config, bar
        self.losses, self.clock, self.since = [], time.perf_counter(), state.step
        self.rows = [row for row in read_metrics(config.out) if row["step"] <= state.step]  # later ones are done again
        if state.rank == 0:
            text = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomic(Path(config.out) / "metrics.jsonl", text.encode())

    def rate(self) -> float:
        "The learning rate of the last update."
        return learning_rate(self.config, self.state.step - 1)

    def write(self, extra: dict) -> None:
        "One line about the updates since the last. Waits for the device."
        step, loss = self.state.step, torch.stack(self.losses).mean().item()
        seconds = max(time.perf_counter() - self.clock, 1e-9)
        row = {"step": step, "loss": loss, "lr": self.rate(), **extra,
               "images_per_second": round((step - self.since) * self.config.batch_size / seconds, 1)}
        self.losses, self.clock, self.since = [], time.perf_counter(), step
        self.rows.append(row)
        if self.state.rank == 0:
            with _saved_before(OSError, self.state, self.config):
                append_line(Path(self.config.out) / "metrics.jsonl", json.dumps(row))
        self.state.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=step)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {row['images_per_second']:.0f} images/s")


@dataclasses.dataclass
class Run:
    "A finished or interrupted run: its folder, the denoiser with averaged weights, the updates done, its metrics, ..."
    folder: Path
    denoiser: Denoiser
    step: int
    finished: bool
    metrics: list[dict]
    skipped: list[tuple[str, str]]  # files that were left out, and why
    stopped_by: int  # the number of the signal that ended it, or 0


def _begin(config: TrainConfig) -> tuple[TrainState, ImageDataset, ImageDataset | None]:
    "Everything that can be refused is refused here, before anything is written. Then the run folder is begun."
    _open_run(config)
    accelerator, out = make_accelerator(config), Path(config.out)
    with accelerator.main_process_first() if config.download else contextlib.nullcontext():
        data, held_out = load_data(config)
    if config.conditional and data.classes is None:
        raise ValueError(f"conditional is True, expected a data set with classes; {config.data!r} has none")
    state = new_state(config, None if config.conditional is False or data.classes is None else len(data.classes))
    described = describe_data(data, held_out)
    if config.resume:
        _check_run(config, described)
        resume_from(state, config)
    accelerator.wait_for_everyone()
    for leftover in out.glob("checkpoints/.step-*") if state.rank == 0 else ():
        shutil.rmtree(leftover)  # what a crash left half-written
    if state.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / MANIFEST, dataclasses.asdict(dataclasses.replace(config, resume=False)))  # as it is now
        if not (out / DATA).exists():
            write_json(out / DATA, described)
    if config.tracker != "none":
        state.accelerator.init_trackers(out.name, {k: str(v) for k, v in dataclasses.asdict(config).items()})
    return state, data.to(state.device), held_out


def train(config: TrainConfig, *, data=None, model=None, progress: bool = True) -> Run:
    """
    Train as `config` says and leave a run folder: configuration, metrics, checkpoints, and pictures at the end.

    Ctrl-C or SIGTERM ends the run after the step in progress (of several graphics cards, at the next line of the log),
    with a checkpoint. `ValueError`, before anything is written, for what cannot be done; `FloatingPointError` where the
    training diverges; `UnreadableImage`, after a checkpoint, where a file vanishes or is damaged during the run.
    """
    c, stopped_by = config, 0
    state, data, held_out = _begin(c)
    bar = tqdm(total=c.steps, initial=state.step, disable=not progress or state.rank > 0, unit="step")
    metrics = _Metrics(state, c, bar)
    try:
        with bar, interruptible() as received, _saved_before(UnreadableImage, state, c):
            for step, loss in training_steps(state, data, c):
                metrics.losses.append(loss)
                bar.update()
                at_line = step % c.log_every == 0 or step == c.steps
                stopped_by = stop_now(received, state, at_line)
                if step == c.steps or step % c.save_every == 0:
                    _checkpoint(state, c, metrics, held_out)
                elif stopped_by or at_line:
                    metrics.write({})
                    if stopped_by and state.rank == 0:
                        save_checkpoint(state, c)  # and nothing more: who sends SIGTERM may not wait for long
                if stopped_by:
                    break
    finally:
        for tracker in state.accelerator.trackers:
            tracker.finish()
    state.accelerator.wait_for_everyone()
    run = Run(Path(c.out), state.averaged, state.step, state.step >= c.steps, metrics.rows, data.skipped, stopped_by)
    if run.finished and state.rank == 0:
        write_pictures(run, c)
    return run


def _checkpoint(state: TrainState, config: TrainConfig, metrics: _Metrics, held_out) -> None:
    "Measure, write a line, save, and draw a few images from the same noise each time."
    check_finite(state, config)
    loss = validation_loss(state.averaged, held_out, config) if held_out is not None and config.validation else None
    if loss is not None and not np.isfinite(loss):
        raise FloatingPointError(f"the validation loss is {loss} after step {state.step - 1}, with learning rate "
                                 f"{metrics.rate():.3g}; no checkpoint was written: try a lower lr")
    metrics.write({} if loss is None else {"validation_loss": loss})
    if state.rank == 0:
        save_checkpoint(state, config, loss)
        if config.previews and state.step < config.steps:
            folder = Path(config.out) / "previews"
            folder.mkdir(exist_ok=True)
            last = draw(state.averaged, config.previews, config)[-1]
            viz.save_grid(last.x0, folder / f"step-{state.step:08d}.png")
    metrics.clock = time.perf_counter()  # all of this is no training


def guided(denoiser: Denoiser, scale: float):
    "The denoiser with guidance where it can be guided: where it knows labels, and also does without."
    config = denoiser.model.config
    return with_guidance(denoiser, scale) if scale != 1 and config.num_classes and config.null_label else denoiser


def draw(denoiser: Denoiser, n: int, config: TrainConfig) -> list[Step]:
    "The steps of DDIM towards `n` images, from the run's seed. A model that knows classes draws each in turn."
    classes = denoiser.model.config.num_classes
    y = torch.arange(n) % classes if classes else None
    return list(ddim_steps(guided(denoiser, config.guidance), n, steps=config.sample_steps, y=y, seed=config.seed))


def write_pictures(run: Run, config: TrainConfig) -> None:
    "loss.png, samples.png, and denoising.gif with 16 of the samples on their way from noise."
    viz.plot_loss([r["step"] for r in run.metrics], [r["loss"] for r in run.metrics], run.folder / "loss.png")
    steps = draw(run.denoiser, config.samples, config)
    viz.save_grid(steps[-1].x0, run.folder / "samples.png")
    viz.save_gif([s.x_t[:16] for s in steps] + [steps[-1].x0[:16]], run.folder / "denoising.gif")
