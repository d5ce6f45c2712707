"""A training run: a folder with its configuration, metrics, checkpoints, and pictures at the end."""
import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..data import to_uint8
from ..ddim import ddim_steps
from ..ddpm import Step
from ..evaluation import DigitFeatures
from ..formats.model_card import readable
from ..formats.model_folder import checkpoints
from ..guidance import with_guidance
from ..hub import load_pretrained
from ..lib import viz
from ..lib.arguments import check_choice
from ..lib.images import UnreadableImage
from ..lib.storage import MANIFEST, append_line, check_tensors, read_json, tidy, write_atomic, write_json
from ..objective import Denoiser
from ..training import TrainState, class_count, learning_rate, seed_of, training_steps, validation_loss
from ..unet import UNet
from .checkpoints import resume_from, save_checkpoint
from .config import TrainConfig, architecture, check_same, without_folders
from .evaluation import DIGITS, LOGGED, logged_scores
from .images import DATA, check_images, describe_data, is_folder, load_data
from .processes import (HOLDER, LOCK, fetched, interruptible, locked, make_accelerator, pick_device, read_once,
                        safe_workers, stop_now)
from .terminal import say


def _check_folder(config: TrainConfig) -> None:
    "Refuse to write into a folder that holds something, or to resume where there is nothing or something else."
    out = Path(config.out)
    if config.resume:
        if not (out / MANIFEST).is_file():
            raise ValueError(f"out is {config.out!r}, expected the folder of a run to resume; there is none")
        check_same(read_json(out / MANIFEST), config, f"the run in {config.out!r}")
    elif out.exists() and (not out.is_dir() or {p.name for p in out.iterdir()} - {f".{MANIFEST}.tmp", LOCK, HOLDER}):
        raise ValueError(f"out is {config.out!r}, which exists already; expected a new folder, or --resume to go on")
    elif is_folder(config.data) and out.resolve().is_relative_to(Path(config.data).resolve()):
        raise ValueError(f"out is {config.out!r}, among the images in {config.data!r}; expected a folder elsewhere, or "
                         f"the pictures of the run would be taken for images to train on")


def read_metrics(run: str | Path) -> list[dict]:
    "The lines of a run's metrics.jsonl; what a crash cut off is left out."
    path, rows = Path(run) / "metrics.jsonl", []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            row = json.loads(line)
            rows += [row] if {"loss", "step"} <= row.keys() and isinstance(row["step"], int) else []
    return rows


def new_state(config: TrainConfig, classes: list[str] | int | None = None,
              model: nn.Module | None = None) -> TrainState:
    """
    The state of a run before its first update.

    `classes`: the names of the labels to learn, or how many there are; None for a model without labels. `model`: the
    user's own network, called as (x, t, y), in place of the one that the configuration asks for.
    """
    c, accelerator = config, make_accelerator(config)
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else classes
    device = pick_device(c.device) if accelerator.num_processes == 1 else accelerator.device
    if model is None:
        with torch.random.fork_rng([]):  # the weights come from the seed, the caller's random state stays as it is:
            torch.default_generator.manual_seed(seed_of(c.seed, 0))  # networks are made on the CPU, wherever they go
            model = UNet(architecture(c, names and len(names)))
    state = TrainState(model.to(device, memory_format=torch.channels_last), c, accelerator, names)
    state.fetch, state.continued = functools.partial(fetched, state), []
    return state


def start_from(state: TrainState, name: str) -> None:
    "Take the weights of a model folder or bundled model, for the average too. `ValueError` where they do not fit."
    try:
        found = load_pretrained(name)
        check_choice("its prediction", found.prediction, [state.denoiser.prediction])
        weights = found.model.state_dict()
        check_tensors(weights, state.denoiser.model.state_dict(), "its network")
    except ValueError as error:
        raise ValueError(f"init is {name!r}, expected a model with the network that is to be trained: "
                         f"{error}") from error
    for model in (state.denoiser.model, state.ema.module):
        model.load_state_dict(weights)


@contextlib.contextmanager
def _saved_before_it_ends(state: TrainState, config: TrainConfig):
    "What was trained is saved where an image cannot be read, and the message says so."
    try:
        yield
    except UnreadableImage as error:
        if not state.optimizer.state:  # nothing was trained yet
            raise
        if state.rank == 0 and f"step-{state.step:08d}" not in [p.name for p in checkpoints(config.out)]:
            save_checkpoint(state, config)
        raise UnreadableImage(f"{error}; the {state.step} updates until then are saved in {config.out!r}") from error


@contextlib.contextmanager
def _optional(what: str):
    "Nothing in here may cost what was trained: an error becomes a warning."
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} failed, and the run goes on without: {type(error).__name__}: {error}")


class _Metrics:
    "metrics.jsonl and the progress bar: a line every `log_every` updates and at each checkpoint."
    def __init__(self, state: TrainState, config: TrainConfig, bar):
        self.state, self.config, self.bar = state, config, bar
        self.losses, self.clock, self.since = [], time.perf_counter(), state.step
        self.rows = [row for row in read_metrics(config.out) if row["step"] <= state.step]  # later ones are done again
        self.file_is_ours = False  # not before those are gone from it, and no more where a line was cut off

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
            with _optional("a line of metrics.jsonl"):
                self._to_file(Path(self.config.out) / "metrics.jsonl")
        with _optional(f"the tracker {self.config.tracker}"):
            self.state.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=step)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {row['images_per_second']:.0f} images/s")

    def _to_file(self, path: Path) -> None:
        *_, last = lines = [json.dumps(row) for row in self.rows]
        append, self.file_is_ours = self.file_is_ours, False
        if append:
            append_line(path, last)
        else:
            write_atomic(path, "".join(line + "\n" for line in lines).encode())
        self.file_is_ours = True


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


def _begin(c: TrainConfig, own_data: Dataset | None, model: nn.Module | None) -> tuple:
    "Everything that can be refused is refused here, before anything is written. Then the run folder is begun."
    _check_folder(c)
    accelerator, out = make_accelerator(c), Path(c.out)
    noted = read_json(out / DATA) if c.resume and (out / DATA).exists() else {}
    if noted.get("own") and own_data is None:
        raise ValueError(f"data is None, expected the data set that the run in {c.out!r} was begun with: "
                         f"train(..., data=...)")
    load = functools.partial(load_data, c, own_data, noted)
    data, held_out = read_once(accelerator, load) if own_data is None else load()
    if c.conditional and data.classes is None:
        raise ValueError(f"conditional is True, expected a data set with classes; {c.data!r} has none")
    if c.evaluate_every and (own_data is not None or c.data not in DIGITS or held_out is None
                             or (c.channels, c.image_size) != (1, 28) or len(held_out) < 2 * LOGGED):
        raise ValueError(f"evaluate_every is {c.evaluate_every}, expected 0 for images that are no digits of 28 x 28 "
                         f"pixels, or where none are held out: no judge knows them")
    state = new_state(c, None if c.conditional is False else data.classes, model)
    described = describe_data(data, held_out, own_data is not None)
    if noted:
        check_images(c, data, described, noted)
    if not (c.resume and resume_from(state, c)) and c.init:
        start_from(state, c.init)
    accelerator.wait_for_everyone()
    if state.rank == 0:
        tidy(out / "checkpoints")
        write_json(out / MANIFEST, dataclasses.asdict(dataclasses.replace(c, resume=False)))  # as it is now
        if not noted:
            write_json(out / DATA, described)
        if data.skipped:
            say(f"files left out: {len(data.skipped)}; {out / DATA} says which, and why")
        for change in state.continued:
            say(f"the run was planned for {change['planned']} updates until update {change['step']}; from there on the "
                f"learning rate is that of a run of another length, so this is not what one run would have given")
    if c.tracker != "none":
        settings = without_folders(dataclasses.asdict(c))  # they may lie open on the web
        settings = {k: v if isinstance(v, (int, float)) else readable(str(v)) for k, v in settings.items()}
        with _optional(f"the tracker {c.tracker}"):
            state.accelerator.init_trackers(readable(out.name), settings)
    return state, data.to(state.device), held_out


def train(config: TrainConfig, *, data: Dataset | None = None, model: nn.Module | None = None,
          progress: bool = True) -> Run:
    """
    Train as `config` says and leave a run folder: configuration, metrics, checkpoints, and pictures at the end.

    `data`: your own data set in place of `config.data`: an `ImageDataset`, or any `Dataset` of (image, label) with
    images as float (C, H, W) in [-1, 1]; labels are learned where it names its `classes`. `model`: your own network in
    place of the UNet, called as (x, t, y) with y None where no labels are learned; the label `len(classes)` means "no
    label". To resume such a run give them again.

    `config.init` takes over the weights of a model, for the average too. `config.resume` goes on to the last bit. With
    another number of `steps` the learning rate of each further update is that of a run of the new length: only with
    `decay=0` do the two parts make what one long run would have made.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU ends the run after the step in progress (of several graphics
    cards, at the next line of the log), with a checkpoint. `ValueError`, before anything is written, for what cannot be
    done; `FloatingPointError` where the training diverges; `UnreadableImage`, after a checkpoint, where a file vanishes
    or is damaged during the run.
    """
    where = config.data if data is None else type(data).__name__
    if data is None and is_folder(where) and os.path.isdir(where):
        where = os.path.abspath(where)  # so that the run can go on from any folder
    init = os.path.abspath(config.init) if config.init and os.path.isdir(config.init) else config.init
    c = dataclasses.replace(config, data=where, init=init, workers=safe_workers(config.workers))
    _check_folder(c)
    with locked(Path(c.out)) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
        return _train(c, *_begin(c, data, model), progress)


def _train(c: TrainConfig, state: TrainState, data, held_out, progress: bool) -> Run:
    stopped_by, hidden = 0, not progress or state.rank > 0 or sys.stderr is None
    judge = DigitFeatures() if c.evaluate_every and state.rank == 0 else None
    # The time left is told by the mean speed: the latest one would take every checkpoint for a slow machine.
    bar = tqdm(total=c.steps, initial=state.step, disable=hidden, unit="step", smoothing=0)
    metrics = _Metrics(state, c, bar)
    try:
        with bar, interruptible() as received, _saved_before_it_ends(state, c):
            for step, loss in training_steps(state, data, c):
                metrics.losses.append(loss)
                bar.update()
                at_line = step % c.log_every == 0 or step == c.steps
                stopped_by = stop_now(received, state, at_line)
                scores, began = {}, time.perf_counter()
                if judge and not stopped_by and step % c.evaluate_every == 0:
                    with _optional("an evaluation"):
                        scores = logged_scores(state.averaged, held_out, c.seed, judge)
                    metrics.clock += time.perf_counter() - began  # this is no training
                if step == c.steps or step % c.save_every == 0:
                    _checkpoint(state, c, metrics, held_out, scores)
                elif stopped_by or at_line or scores:
                    metrics.write(scores)
                    if stopped_by and state.rank == 0:
                        save_checkpoint(state, c)  # and nothing more: who sends SIGTERM may not wait for long
                if stopped_by:
                    break
    finally:
        for tracker in state.accelerator.trackers:
            with _optional(f"the tracker {c.tracker}"):
                tracker.finish()
    state.accelerator.wait_for_everyone()
    run = Run(Path(c.out), state.averaged, state.step, state.step >= c.steps, metrics.rows, data.skipped, stopped_by)
    if run.finished and state.rank == 0:
        write_pictures(run, c, progress=not hidden)
    return run


def _checkpoint(state: TrainState, config: TrainConfig, metrics: _Metrics, held_out, scores: dict) -> None:
    "Measure, write a line with `scores` besides, save, and draw a few images from the same noise each time."
    loss = validation_loss(state.averaged, held_out, config) if held_out is not None and config.validation else None
    if loss is not None and not np.isfinite(loss):
        raise FloatingPointError(f"the validation loss is {loss} after step {state.step - 1}, with learning rate "
                                 f"{metrics.rate():.3g}; no checkpoint was written: try a lower lr")
    metrics.write(scores if loss is None else {"validation_loss": loss, **scores})
    if state.rank == 0:
        save_checkpoint(state, config, loss)
    if state.rank == 0 and config.previews and state.step < config.steps:
        with _optional("a preview"):
            folder = Path(config.out) / "previews"
            folder.mkdir(exist_ok=True)
            *_, last = draw(state.averaged, config.previews, config)
            viz.save_grid(last.x0, folder / f"step-{state.step:08d}.png")
    metrics.clock = time.perf_counter()  # all of this is no training


def guided(denoiser: Denoiser, scale: float):
    "The denoiser with guidance where it can be guided: where it knows labels, and also does without."
    config = getattr(denoiser.model, "config", None)
    knows_both = getattr(config, "num_classes", None) and getattr(config, "null_label", False)
    return with_guidance(denoiser, scale) if knows_both and scale != 1 else denoiser


def draw(denoiser: Denoiser, n: int, config: TrainConfig) -> Iterator[Step]:
    "The steps of DDIM towards `n` images, from the run's seed. A model that knows classes draws each in turn."
    classes = class_count(denoiser)
    y = torch.arange(n) % classes if classes else None
    return ddim_steps(guided(denoiser, config.guidance), n, steps=config.sample_steps, y=y, seed=config.seed)


def write_pictures(run: Run, config: TrainConfig, *, progress: bool = False) -> None:
    "samples.png, denoising.gif with 16 of the samples on their way from noise, and loss.png: the most precious first."
    frames = []
    with _optional("samples.png"):
        steps = draw(run.denoiser, config.samples, config)
        for step in tqdm(steps, f"drawing {config.samples} samples", config.sample_steps, leave=False, unit="step",
                         disable=not progress):
            frames.append(to_uint8(step.x_t[:16]))
        viz.save_grid(step.x0, run.folder / "samples.png")
        frames.append(to_uint8(step.x0[:16]))
    with _optional("denoising.gif"):
        viz.save_gif(frames, run.folder / "denoising.gif")
    with _optional("loss.png"):
        viz.plot_loss([r["step"] for r in run.metrics], [r["loss"] for r in run.metrics], run.folder / "loss.png")
