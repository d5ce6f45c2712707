"""Which recipe learns the emoji best in a given time? The search behind `ddpm_course train --data emoji`.

    python benchmarks/emoji_search.py                          all variants below, 200 s of processor time each
    python benchmarks/emoji_search.py --seconds 300 wide deep  some of them, longer
    python benchmarks/emoji_search.py --pictures DIR           and 36 samples of each, a row a class, as PNG
    python benchmarks/emoji_search.py --program runs/emoji     the program's own run, on all cores: ten minutes of two

Each variant differs from the base recipe in the fields named. All get the same processor time on one thread, which is
what a reader spends and does not depend on what else the machine does; the learning rate falls over the same share of
it. Judged on the 158 held-out emoji: the mean squared error of v at 8 signal-to-noise ratios, those of the cosine
schedule's levels 62, 187, ... 937, whatever schedule the variant was trained on, with the same noise. The same on as
many training emoji shows how much is remembered. Results go to benchmarks/results/emoji_search.json, and the samples
of the program's run to emoji_program.png.
"""
import argparse
import dataclasses
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import machine

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state
from ddpm_course.data import ImageDataset, load_emoji
from ddpm_course.ddim import ddim_sample
from ddpm_course.guidance import with_guidance
from ddpm_course.hub import load_pretrained
from ddpm_course.lib import viz
from ddpm_course.schedules import make_schedule
from ddpm_course.training import batch_index, class_count, train_step

RESULTS = Path(__file__).parent / "results" / "emoji_search.json"
BASE = dict(data="emoji", image_size=32, channels=3, base_channels=32, channel_mults=(1, 2, 2), flip=True, lr=2e-3)
VARIANTS = {
    "base": {},
    "batch 16": {"batch_size": 16},
    "twice the rate": {"lr": 4e-3},
    "half the rate": {"lr": 1e-3},
    "two levels": {"channel_mults": (1, 2)},
    "no attention": {"attention_resolutions": ()},
    "sigmoid": {"schedule": "sigmoid"},
    "min-SNR": {"weighting": "min_snr"},
    "not mirrored": {"flip": False},
    "wide": {"base_channels": 48},
    "narrow": {"base_channels": 24},
    "deep": {"num_res_blocks": 2},
    "folded by 4": {"patch_size": 4, "base_channels": 64, "channel_mults": (1, 2)},
    "not folded, narrow": {"patch_size": 1, "base_channels": 16, "channel_mults": (1, 2, 4)},
    "eps": {"prediction": "eps"},
    "batch 64": {"batch_size": 64},
    "EMA 0.99": {"ema": 0.99},
    "attention at 8 and 4": {"attention_resolutions": (8, 4)},
    "two levels, batch 16": {"channel_mults": (1, 2), "batch_size": 16},
    "two levels, batch 16, sigmoid": {"channel_mults": (1, 2), "batch_size": 16, "schedule": "sigmoid"},
    "two levels, batch 16, min-SNR": {"channel_mults": (1, 2), "batch_size": 16, "weighting": "min_snr"},
    "two levels, batch 16, min-SNR, sigmoid": {
        "channel_mults": (1, 2), "batch_size": 16, "weighting": "min_snr", "schedule": "sigmoid"},
    "two levels, min-SNR, EMA 0.999": {"channel_mults": (1, 2), "weighting": "min_snr", "ema": 0.999},
}


@torch.no_grad()
def v_error(denoiser, data: ImageDataset, index: torch.Tensor) -> torch.Tensor:
    "The mean squared error of v for each image, over 8 levels: (N,)."
    x0, y = data.batch(index)
    cosine, own = make_schedule("cosine", 1000), denoiser.schedule
    snr = own.snr(torch.arange(own.num_timesteps)).log()
    generator, errors = torch.Generator().manual_seed(1), []
    for level in range(62, 1000, 125):
        nearest = (snr - cosine.snr(torch.tensor([level])).log()).abs().argmin()
        t = nearest.expand(len(x0))
        noise = torch.randn(x0.shape, generator=generator)
        error = denoiser(own.q_sample(x0, t, noise), t, y if class_count(denoiser) else None).x0 - x0
        # of v it is this over the noise's share
        errors.append(error.square().flatten(1).mean(1) / (1 - own.alphas_cumprod[nearest]))
    return torch.stack(errors).mean(0)


def mean_and_error(x: torch.Tensor) -> list[float]:
    "The mean, and its standard error over the images."
    return [round(x.mean().item(), 5), round(x.std().item() / math.sqrt(len(x)), 5)]


def run(name: str, seconds: float, pictures: Path | None) -> dict:
    config = TrainConfig(**BASE | VARIANTS[name])
    data = load_emoji("train")
    state = new_state(config, len(data.classes))
    start, wall = time.process_time(), time.perf_counter()
    while (elapsed := time.process_time() - start) < seconds:
        # train_step sets the learning rate from step / steps: guess `steps` anew from the speed so far
        guess = max(state.step + 1, round((state.step + 1) * seconds / max(elapsed, 1e-3)))
        config = dataclasses.replace(config, steps=guess if state.step > 20 else 10**6)
        train_step(state, data.batch(batch_index(len(data), config.batch_size, state.step, config.seed)), config)
    wall = time.perf_counter() - wall
    row = {"variant": name, "changes": VARIANTS[name], "processor_seconds": seconds, "wall_seconds": round(wall),
           "steps": state.step, "images": state.step * config.batch_size, **judged(state.averaged)}
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        y = torch.arange(len(data.classes)).repeat_interleave(4)
        drawn = ddim_sample(with_guidance(state.averaged, 2.0), len(y), steps=50, y=y, seed=0, progress=False)
        viz.save_grid(drawn, pictures / f"{name}-{seconds:.0f}.png", columns=4)
    return row


def judged(denoiser) -> dict:
    data, held_out = load_emoji("train"), load_emoji("test")
    index = torch.arange(len(held_out))
    return {"parameters": sum(p.numel() for p in denoiser.model.parameters()),
            "held_out_v_error": mean_and_error(v_error(denoiser, held_out, index)),
            "train_v_error": mean_and_error(v_error(denoiser, data, index))}


def program(folder: Path) -> dict:
    "What a person gets who types the command: the time until the samples are there, and how good the model is."
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ddpm_course", "train", "--data", "emoji", "--out", str(folder)], check=True)
    return judged_run(folder, time.perf_counter() - start)


@torch.no_grad()
def judged_run(folder: Path, seconds: float) -> dict:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.copy(folder / "samples.png", RESULTS.parent / "emoji_program.png")
    return {"wall_seconds": round(seconds), "steps": rows[-1]["step"],
            "images_per_second": round(statistics.median(row["images_per_second"] for row in rows), 1),
            **judged(load_pretrained(folder)), "machine": machine("cpu"), "date": time.strftime("%Y-%m-%d")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"some of: {', '.join(VARIANTS)}")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--program", type=Path, metavar="RUN", help="a new folder, for the program's own run")
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if args.program:
        RESULTS.write_text(json.dumps(found | {"program": program(args.program)}, indent=1) + "\n")
        return
    torch.set_num_threads(1)
    for name in args.variants or VARIANTS:
        row = run(name, args.seconds, args.pictures)
        print(json.dumps(row), flush=True)
        rows = [r for r in found["rows"] if (r["variant"], r["processor_seconds"]) != (name, args.seconds)] + [row]
        found = found | {"machine": machine("cpu"), "date": time.strftime("%Y-%m-%d"), "base": BASE, "rows": rows}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
