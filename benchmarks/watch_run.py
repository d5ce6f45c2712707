"""Watches a training run: its losses and its pictures as it goes on, for chapter 10.

    python benchmarks/watch_run.py --steps 1000        trains the digits, two or three minutes of one quiet core
    python benchmarks/watch_run.py --folder runs/emoji takes them from a run of `ddpm_course train --data emoji`

The digits are trained by the recipe of the program, with pictures and losses from raw and from averaged weights. A run
folder knows those of the averaged weights. benchmarks/results/runs.json gets the losses, run_NAME.png the pictures: a
row for each moment, one picture a class, from the same noise each time; averaged weights first, then raw ones if known.
Both are written anew at each moment, so a run that is stopped is kept as far as it has come.
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine
from PIL import Image

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import draw, new_state, read_metrics
from ddpm_course.data import load_digits, to_uint8
from ddpm_course.lib.storage import read_json
from ddpm_course.training import training_steps, validation_loss

RESULTS = Path(__file__).parent / "results"
MOMENTS = 10, 50, 100, 200, 400, 600, 1000, 2000, 3000  # of the pictures, in updates
EVERY = 25  # updates from one training loss to the next; the validation loss is measured at every fourth of them


def pictures(denoiser, config: TrainConfig) -> np.ndarray:
    "One picture of each class, from the same noise each time, side by side: uint8 (H, W of all, channels)."
    *_, last = draw(denoiser, len(denoiser.classes), config)
    return to_uint8(last.x0).permute(2, 0, 3, 1).reshape(config.image_size, -1, config.channels).numpy()


def watch(steps: int) -> None:
    "Train the digits, and keep what is seen."
    config = TrainConfig(steps=steps, validation=256, sample_steps=20)
    data, held_out = load_digits("train"), load_digits("test")
    state = new_state(config, data.classes)
    losses, train, held, moments, averaged, raw = [], [], [], [], [], []
    seconds, clock = 0.0, time.process_time()
    for step, loss in training_steps(state, data, config):
        losses.append(loss.item())
        seconds += time.process_time() - clock  # of training alone
        if step % EVERY == 0:
            train.append([step, round(sum(losses) / EVERY, 5)])
            losses = []
        now = step in MOMENTS or step == steps
        if now or step == 1 or step % (4 * EVERY) == 0:
            held.append([step, *(round(validation_loss(denoiser, held_out, config), 5)
                                 for denoiser in (state.averaged, state.denoiser))])
        if now:
            moments.append(step)
            averaged.append(pictures(state.averaged, config))
            raw.append(pictures(state.denoiser, config))
            keep("digits", averaged + raw, {
                "updates": step, "planned": steps, "batch_size": config.batch_size, "ema": config.ema,
                "training images": len(data), "classes": data.classes, "seconds": round(seconds), "moments": moments,
                "training loss": train, "validation loss, averaged and raw": held})
            print(f"{step} updates, {seconds:.0f} s, validation loss {held[-1]}", flush=True)
        clock = time.process_time()


def read(folder: Path) -> None:
    "Keep the same of a run folder, at six of its previews."
    config, data, metrics = read_json(folder / "config.json"), read_json(folder / "data.json"), read_metrics(folder)
    previews = {int(p.stem.split("-")[1]): p for p in sorted(folder.glob("previews/*.png"))}
    first, last = min(previews), max(previews)
    moments = sorted({min(previews, key=lambda m: abs(m - first * (last / first) ** (i / 5))) for i in range(6)})
    side, classes = config["image_size"], data["classes"]
    columns = math.ceil(config["previews"] ** 0.5)
    rows = []
    for moment in moments:
        sheet = np.array(Image.open(previews[moment]))[::2, ::2]  # enlarged twice, 2 pixels apart
        places = [(2 + i // columns * (side + 2), 2 + i % columns * (side + 2)) for i in range(len(classes))]
        rows.append(np.concatenate([sheet[top:top + side, left:left + side] for top, left in places], 1))
    steps = [0, *(m["step"] for m in metrics)]
    seconds = sum((b - a) * config["batch_size"] / m["images_per_second"] for a, b, m in zip(steps, steps[1:], metrics))
    keep(config["data"], rows, {
        "updates": steps[-1], "planned": config["steps"], "batch_size": config["batch_size"], "ema": config["ema"],
        "training images": data["images"], "classes": classes, "seconds": round(seconds), "moments": moments,
        "training loss": [[m["step"], round(m["loss"], 5)] for m in metrics],
        "validation loss, averaged and raw": [[m["step"], round(m["validation_loss"], 5)]
                                              for m in metrics if "validation_loss" in m]})


def keep(name: str, rows: list[np.ndarray], run: dict) -> None:
    Image.fromarray(np.concatenate(rows).squeeze()).save(RESULTS / f"run_{name}.png", optimize=True)
    file, run = RESULTS / "runs.json", run | {"machine": machine("cpu"), "date": time.strftime("%Y-%m-%d")}
    runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(dict(sorted((runs | {name: run}).items()))) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--folder", type=Path, help="a run of `ddpm_course train`, finished or not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.folder:
        read(args.folder)
    else:
        watch(args.steps)


if __name__ == "__main__":
    main()
