"""`ddpm_course train`, `ddpm_course sample` and `ddpm_course info`: the course as a program."""
import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import sys
from pathlib import Path

import torch
import tyro

from ..ddim import ddim_sample
from ..formats.model_folder import checkpoints
from ..hub import load_pretrained
from ..lib import viz
from ..lib.storage import MANIFEST, read_json
from .checkpoints import best_checkpoint, is_whole
from .config import TrainConfig
from .processes import pick_device
from .run import DATA, guided, read_metrics, train


@dataclasses.dataclass
class SampleConfig:
    """
    Draw images with a trained model and save them as one PNG.

    Args:
        run: A run folder, a model folder, or the name of a bundled model ("digits").
        n: How many images.
        steps: Calls of the network for each.
        seed: The same seed gives the same picture.
        out: The PNG to write.
        guidance: How strictly labels are followed: 1 as learned, more for clearer images.
        eta: Share of fresh noise in each step, from 0 (DDIM) to 1 (DDPM).
        y: Draw this class only; without it a model that knows classes draws each in turn.
        device: auto, cpu, cuda, mps, or a device such as cuda:1.
    """
    run: tyro.conf.Positional[str]
    n: int = 64
    steps: int = 50
    seed: int = 0
    out: str = "samples.png"
    guidance: float = 2.0
    eta: float = 0.0
    y: int | None = None
    device: str = "auto"


def sample_command(c: SampleConfig) -> int:
    "Draw images and save them."
    if not Path(c.out).resolve().parent.is_dir():
        raise ValueError(f"out is {c.out!r}, expected a file in a folder that exists")
    there = checkpoints(c.run)  # none where the run is a model's folder or name
    whole = next((p for p in there if is_whole(p)), None)
    if whole and whole != there[0]:
        print(f"checkpoint {there[0].name} is damaged; drawing from {whole.name}", file=sys.stderr)
    denoiser = load_pretrained(whole or c.run, device=pick_device(c.device))
    classes = denoiser.model.config.num_classes
    if c.y is not None and not 0 <= c.y < (classes or 0):
        expected = f"0 to {classes - 1}" if classes else "none, because the model knows no classes"
        raise ValueError(f"y is {c.y}, expected {expected}")
    y = torch.arange(max(c.n, 0)) % classes if classes and c.y is None else c.y
    images = ddim_sample(guided(denoiser, c.guidance), c.n, steps=c.steps, seed=c.seed, eta=c.eta, y=y,
                         progress=sys.stderr.isatty())
    viz.save_grid(images, c.out)
    print(f"{c.n} images from {c.run} are in {c.out}")
    return 0


def train_command(c: TrainConfig) -> int:
    "Train a model and leave a run folder."
    run = train(c, progress=sys.stderr.isatty())  # no bar in a log file
    if os.environ.get("RANK", "0") != "0":  # one of several processes, and not the one that speaks
        return 0
    if run.skipped:
        print(f"files left out: {len(run.skipped)}; {run.folder / DATA} says which, and why")
    if not run.finished:
        print(f"stopped at step {run.step} of {c.steps}; {run.folder} keeps what was trained, go on with: "
              f"ddpm_course train --resume --out {run.folder}")
        return 128 + run.stopped_by
    course = "; open the course with: jupyter lab nbs" if Path("nbs/index.ipynb").is_file() else ""
    print(f"samples.png, denoising.gif, loss.png and the checkpoints are in {run.folder}; draw more with: "
          f"ddpm_course sample {run.folder}{course}")
    return 0


@dataclasses.dataclass
class InfoConfig:
    """
    Say what a run was trained on, what it trains, and where it stands.

    Args:
        run: A run folder.
    """
    run: tyro.conf.Positional[str]


def describe_run(folder: str | Path) -> dict[str, str]:
    "What a run folder holds, in a few lines. `ValueError` where it is none."
    run = Path(folder)
    c, data = saved_config(run / MANIFEST), read_json(run / DATA) if (run / DATA).exists() else {}
    saved, rows, best = checkpoints(run), read_metrics(run), best_checkpoint(run)
    whole = [p for p in saved if is_whole(p)]  # a run goes on from the newest of these
    step = int(whole[0].name[5:]) if whole else 0
    classes, skipped = (len(data.get(name) or []) for name in ("classes", "skipped"))
    losses = {r["step"]: r["validation_loss"] for r in rows if "validation_loss" in r}
    lines = {
        "run": f"{folder}: {'finished' if step >= c.steps else 'not finished'}, {step} of {c.steps} steps saved",
        "images": f"{c.data}: {data.get('images')} of {c.image_size} x {c.image_size} pixels and {c.channels} "
                  f"channel(s), {classes} classes; {data.get('held_out')} held out; files left out: {skipped}"
                  if data else f"{c.data}: not read yet",
        "training": f"batches of {c.batch_size}, learning rate {c.lr:g}, EMA {c.ema:g}, {c.precision}, seed {c.seed}"}
    if saved:
        lines["checkpoints"] = ", ".join(p.name + ("" if p in whole else " (damaged)") for p in saved)
    if whole:
        model = load_pretrained(whole[0])
        parameters = sum(p.numel() for p in model.model.parameters())
        lines["model"] = (f"{parameters:,} parameters, predicts {model.prediction}, {c.schedule} schedule with "
                          f"T = {c.num_timesteps}")
    if rows:
        lines["loss"] = f"{rows[-1]['loss']:.4f} at step {rows[-1]['step']}"
    if best:
        lines["best"] = f"{best.name}, with a validation loss of {losses.get(int(best.name[5:]), float('nan')):.4f}"
    return lines


def info_command(c: InfoConfig) -> int:
    "Print where a run stands."
    for name, text in describe_run(c.run).items():
        print(f"{name:12s} {text}")
    return 0


COMMANDS = {"train": (TrainConfig, train_command), "sample": (SampleConfig, sample_command),
            "info": (InfoConfig, info_command)}

USAGE = """usage: ddpm_course {train,sample,info} [options]

  train    train a diffusion model on images and leave a run folder
  sample   draw images with a trained model
  info     say what a run was trained on, and where it stands

`ddpm_course train --help` explains every option. `ddpm_course train --config FILE` takes options from a JSON file, such
as the config.json of a run; what is said on the command line comes on top."""


def _read(command: str, args: list[str], default=None):
    "Let tyro read the options. It explains a mistake in a box of many lines: what it says first is kept, on one line."
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(COMMANDS[command][0], args=args, prog=f"ddpm_course {command}",
                            **({} if default is None else {"default": default}))
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ") for line in said.getvalue().splitlines()]
        first = list(itertools.takewhile(lambda line: not line.startswith("──"), lines[1:-1]))
        raise ValueError(re.sub(r"^Error parsing \w+Config: ", "", " ".join(first).strip())) from None


def saved_config(path: str | Path) -> TrainConfig:
    "The configuration in a JSON file, such as a run's config.json. `ValueError` that names an unknown or wrong entry."
    saved, defaults = read_json(path), dataclasses.asdict(TrainConfig())
    for name, value in saved.items():
        if name not in defaults:
            raise ValueError(f"{str(path)!r} has the entry {name!r}, expected options of `ddpm_course train`")
        like = defaults[name]
        kinds = {float: (int, float), tuple: list, type(None): object}.get(type(like), type(like))
        if not isinstance(value, kinds) or (isinstance(value, bool) and type(like) in (int, float)):
            raise ValueError(f"{str(path)!r}: {name} is {value!r}, expected something like {like!r}")
    return TrainConfig(**saved)


def _parse(command: str, args: list[str]):
    """
    The command's configuration. Options of `train` that are not given come from the file after `--config`, for a run
    that is resumed from its own configuration, and else from the defaults.
    """
    file = None
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    if command == "train" and "--config" in args:
        at = args.index("--config")
        file, args = (args + [""])[at + 1], args[:at] + args[at + 2:]
        if not file:
            raise ValueError("--config is given without a file, expected the path of a JSON file")
    config = _read(command, args, saved_config(file) if file else None)
    if command == "train" and config.resume and not file and (Path(config.out) / MANIFEST).is_file():
        config = _read(command, args, dataclasses.replace(saved_config(Path(config.out) / MANIFEST), out=config.out))
    return config


def main(argv: list[str] | None = None) -> int:
    """
    The program `ddpm_course`. Returns the exit code: 0; 2 for a mistake in the input, which one line on stderr names;
    1 where training diverged or the disk refused; 130 after Ctrl-C; 143 after SIGTERM.
    """
    command, *args = (sys.argv[1:] if argv is None else argv) or [""]
    if command not in COMMANDS:
        print(USAGE, file=sys.stdout if command in ("-h", "--help") else sys.stderr)
        return 0 if command in ("-h", "--help") else 2
    try:
        return COMMANDS[command][1](_parse(command, args))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"ddpm_course {command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # several processes worked together
