"""What the commands of the program do. Each answers with an exit code and the lines to say about it."""
import os
import sys
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..ddim import ddim_steps
from ..evaluation import DigitFeatures
from ..formats.model_card import readable
from ..formats.model_folder import checkpoints, describe
from ..hub import load_pretrained
from ..lib import viz
from ..lib.arguments import check_number
from ..lib.storage import MANIFEST, read_json, write_json
from ..objective import Denoiser
from .checkpoints import best_checkpoint, is_whole
from .config import TrainConfig
from .evaluation import DIGITS, FEWEST, beside_neighbours, evaluate, lines, real_images
from .images import DATA
from .options import EvaluateConfig, InfoConfig, SampleConfig, did_you_mean, saved_config
from .processes import pick_device
from .run import guided, read_metrics, train


def _quoted(path: str | Path) -> str:
    "A path as it can be pasted into a command."
    return f'"{path}"' if " " in str(path) else str(path)


def train_command(c: TrainConfig) -> tuple[int, str]:
    "Train a model and leave a run folder."
    run = train(c, progress=sys.stderr.isatty())  # no bar in a log file
    if os.environ.get("RANK", "0") != "0":  # one of several processes, and not the one that speaks
        return 0, ""
    folder = _quoted(run.folder)
    if not run.finished:
        return 128 + run.stopped_by, (f"stopped at step {run.step} of {c.steps}; {run.folder} keeps what was trained, "
                                      f"go on with: ddpm_course train --resume --out {folder}")
    course = "; open the course with: jupyter lab nbs/index.ipynb" if Path("nbs/index.ipynb").is_file() else ""
    return 0, (f"samples.png, denoising.gif, loss.png and the checkpoints are in {run.folder}; draw more with: "
               f"ddpm_course sample {folder}{course}")


def labels_of(y: str | None, num_classes: int | None, names: list[str] | None) -> list[int] | None:
    """
    The labels that `--y` asks for, by names or numbers; None asks for every class of a model that knows classes.

    A text that is the name of a class means that class, also where it is a number or holds a comma.
    """
    if y is None:
        return list(range(num_classes)) if num_classes else None
    if not num_classes:
        raise ValueError(f"y is {y}, expected none, because the model knows no classes")
    names, numbers = list(names or ()), [str(label) for label in range(num_classes)]
    labels, y = [], readable(y)  # as the model spells them
    for text in [y] if y in names else [part.strip() for part in y.split(",")]:
        if text not in names + numbers:
            named = f", or a name: {', '.join(names)}" if names and names != numbers else ""
            raise ValueError(f"y is {text}, expected 0 to {num_classes - 1}{named}{did_you_mean(text, names)}")
        labels.append((names if text in names else numbers).index(text))
    return labels


def _check_target(c: SampleConfig, shape: tuple[int, ...]) -> Path:
    "Where the images go. What could not be written is refused before they are drawn."
    if c.each:
        folder = Path("samples" if c.out == SampleConfig.out else c.out)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ValueError(f"out is {str(folder)!r}, which exists already; expected a new or empty folder")
        return folder
    out, (height, width) = Path(c.out), shape[-2:]
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ValueError(f"out is {c.out!r}, expected a file in a folder that exists")
    viz.picture_format(out)
    most = 2 * Image.MAX_IMAGE_PIXELS // (4 * (height + 2) * (width + 2))  # Pillow would not open a larger picture
    if c.n > most:
        raise ValueError(f"n is {c.n}, expected at most {most} images of {height} x {width} pixels in one picture; "
                         f"--each writes one file an image")
    return out


def drawn(denoiser: Denoiser, c: SampleConfig | EvaluateConfig, labels: list[int] | None) -> Iterator[Tensor]:
    "The images that are asked for, a batch at a time, behind one progress bar. Labels are drawn in turn."
    generator = torch.Generator(denoiser.schedule.betas.device).manual_seed(c.seed)
    denoiser = guided(denoiser, c.guidance)
    with tqdm(total=-(-c.n // c.batch_size) * c.steps, disable=not sys.stderr.isatty(), leave=False, unit="step",
              desc=f"drawing {c.n} images") as bar:
        for first in range(0, c.n, c.batch_size):
            numbers = torch.arange(first, min(first + c.batch_size, c.n))
            y = torch.tensor(labels)[numbers % len(labels)] if labels else None
            for step in ddim_steps(denoiser, len(numbers), steps=c.steps, eta=c.eta, y=y, generator=generator):
                bar.update()
            yield step.x0


def save_each(batches: Iterator[Tensor], folder: Path, range: tuple[float, float] | None) -> None:
    "One PNG an image, in the size of the images: 000000.png, 000001.png, ..."
    number = 0
    for images in batches:
        folder.mkdir(parents=True, exist_ok=True)
        for pixels in viz.to_pixels(images, range):
            picture = Image.fromarray(pixels[..., 0] if images.shape[1] == 1 else pixels)
            picture.save(folder / f"{number:06d}.png")
            number += 1


def _newest(c: SampleConfig | EvaluateConfig) -> Denoiser:
    "The model of the newest checkpoint that is whole, or of the model's folder or name."
    there = checkpoints(c.run)  # none where the run is a model's folder or name
    whole = next((p for p in there if is_whole(p)), None)
    if whole and whole != there[0]:
        print(f"checkpoint {there[0].name} is damaged; drawing from {whole.name}", file=sys.stderr)
    return load_pretrained(whole or c.run, device=pick_device(c.device))


def sample_command(c: SampleConfig) -> tuple[int, str]:
    "Draw images and save them."
    denoiser = _newest(c)
    labels = labels_of(c.y, denoiser.model.config.num_classes, denoiser.classes)
    out = _check_target(c, denoiser.shape)
    if c.each:
        save_each(drawn(denoiser, c, labels), out, denoiser.clip)
    else:
        viz.save_grid(torch.cat(list(drawn(denoiser, c, labels))), out, range=denoiser.clip)
    return 0, f"{c.n} images from {c.run} are in {out}"


def _named(classes: list[str]) -> str:
    "Classes with the numbers of their labels, where the name does not say it."
    return ", ".join(name if name == str(label) else f"{label} {' '.join(name.split())}"
                     for label, name in enumerate(classes))


def _network(denoiser: Denoiser) -> str:
    parameters = sum(p.numel() for p in denoiser.model.parameters())
    schedule = describe(denoiser)["schedule"].get("name", "custom")
    return (f"{parameters:,} parameters, predicts {denoiser.prediction}, {schedule} schedule with "
            f"T = {denoiser.schedule.num_timesteps}")


def describe_run(folder: str | Path) -> dict[str, str]:
    "What a run folder holds, in a few lines. `ValueError` where it is none."
    run = Path(folder)
    c, data = saved_config(run / MANIFEST), read_json(run / DATA) if (run / DATA).exists() else {}
    saved, rows, best = checkpoints(run), read_metrics(run), best_checkpoint(run)
    whole = [p for p in saved if is_whole(p)]  # a run goes on from the newest of these
    step = int(whole[0].name[5:]) if whole else 0
    classes, skipped = data.get("classes") or [], len(data.get("skipped") or [])
    losses = {r["step"]: r["validation_loss"] for r in rows if "validation_loss" in r}
    lines = {
        "run": f"{folder}: {'finished' if step >= c.steps else 'not finished'}, {step} of {c.steps} steps saved",
        "images": f"{c.data}: {data.get('images')} of {c.image_size} x {c.image_size} pixels and {c.channels} "
                  f"channel(s), {len(classes)} classes; {data.get('held_out')} held out; files left out: {skipped}"
                  if data else f"{c.data}: not read yet"}
    if classes:
        lines["classes"] = _named(classes)
    lines["training"] = (f"batches of {c.batch_size}, learning rate {c.lr:g}, EMA {c.ema:g}, {c.precision}, "
                         f"seed {c.seed}")
    if saved:
        lines["checkpoints"] = ", ".join(p.name + ("" if p in whole else " (damaged)") for p in saved)
    if whole:
        lines["model"] = _network(load_pretrained(whole[0]))
    if rows:
        lines["loss"] = f"{rows[-1]['loss']:.4f} at step {rows[-1]['step']}"
    if best:
        lines["best"] = f"{best.name}, with a validation loss of {losses.get(int(best.name[5:]), float('nan')):.4f}"
    return lines


def _facts(folder_or_name: str) -> dict[str, str]:
    "The rows of the model's card: what it was trained on, how, and what else was noted."
    with as_file(files("ddpm_course") / "assets" / "models" / folder_or_name) as bundled:
        found = [folder / MANIFEST for folder in (Path(folder_or_name), bundled) if (folder / MANIFEST).is_file()]
        facts = read_json(found[0]).get("facts") if found else None
    return {name: " ".join(str(fact).split()) for name, fact in facts.items()} if isinstance(facts, dict) else {}


def describe_model(folder_or_name: str) -> dict[str, str]:
    "What a model is, in a few lines, with what its card says about it."
    denoiser = load_pretrained(folder_or_name)
    channels, height, width = denoiser.shape
    values = "values from {:g} to {:g}".format(*denoiser.clip) if denoiser.clip else "values without fixed bounds"
    lines = {"model": f"{folder_or_name}: {_network(denoiser)}",
             "draws": f"images of {height} x {width} pixels and {channels} channel(s), {values}"}
    if names := denoiser.classes or [str(label) for label in range(denoiser.model.config.num_classes or 0)]:
        lines["classes"] = _named(names)
    return lines | _facts(folder_or_name)


def info_command(c: InfoConfig) -> tuple[int, str]:
    "Say where a run stands, or what a model is."
    manifest = Path(c.run) / MANIFEST
    is_run = manifest.is_file() and "format" not in read_json(manifest)
    lines = describe_run(c.run) if is_run else describe_model(c.run)
    return 0, "\n".join(f"{name:12s} {text}" for name, text in lines.items())


def evaluate_command(c: EvaluateConfig) -> tuple[int, str]:
    "Draw images, say how good they are, and write that as JSON, with a picture of those nearest to training images."
    out = Path(c.out)
    if not out.resolve().parent.is_dir():
        raise ValueError(f"out is {c.out!r}, expected a name in a folder that exists")
    denoiser = _newest(c)
    data, held_out, training = real_images(c.run, denoiser.shape, c.data)
    judge = DigitFeatures() if data in DIGITS else None
    if judge:
        check_number("n", c.n, FEWEST, min(len(held_out), len(training)), whole=True)
    images = torch.cat(list(drawn(denoiser, c, labels_of(None, denoiser.model.config.num_classes, None)))).cpu()
    table = evaluate(images, held_out, training, judge)
    about = {"model": c.run, "data": data, "judge": judge and str(judge), "n": c.n, "steps": c.steps, "eta": c.eta,
             "guidance": c.guidance, "seed": c.seed, "held_out": len(held_out), "training": len(training)}
    scores = {name: {who: score._asdict() for who, score in zip(("samples", "real"), row)}
              for name, row in table.items()}
    write_json(out.with_name(out.name + ".json"), {**about, "scores": scores})
    viz.save_grid(beside_neighbours(images, training), out.with_name(out.name + ".png"), columns=8)
    told = [f"{c.n} images of {c.run} in {c.steps} steps beside real ones of {data}; ± is 1.96 standard errors",
            f"judge: {judge}" if judge else f"no judge knows the images of {data}, so only distances of pixels are "
            f"told; with features of your own, ddpm_course.evaluation.all_scores tells the rest", *lines(table),
            f"{out}.json holds the numbers, {out}.png the samples nearest to training images, and those under each row"]
    return 0, "\n".join(told)


COMMANDS = {"train": train_command, "sample": sample_command, "info": info_command, "evaluate": evaluate_command}
