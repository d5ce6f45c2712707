"""Which small recipe draws the best digits in a given time? The search behind the defaults of `TrainConfig`.

    python benchmarks/recipe_search.py                          all variants below, 200 s of training each
    python benchmarks/recipe_search.py --seconds 60 default ...  some of them

Each variant differs from the defaults in the fields named. All get the same time, because time is what a reader spends;
the learning rate falls over the same share of it. 256 digits are drawn from the averaged weights (DDIM, 50 steps, the
same noise) and shown to the network that judges digits (chapter 12). Results are appended to
benchmarks/results/recipe_search.jsonl.
"""
import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import torch

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state
from ddpm_course.data import load_digits
from ddpm_course.ddim import ddim_sample
from ddpm_course.evaluation import DigitFeatures
from ddpm_course.training import batch_index, train_step

RESULTS = Path(__file__).parent / "results" / "recipe_search.jsonl"
VARIANTS = {
    "default": {},
    "no labels": {"conditional": False},
    "no labels, eps, linear": {"conditional": False, "prediction": "eps", "schedule": "linear"},
    "no labels, min-SNR": {"conditional": False, "weighting": "min_snr"},
    "no attention": {"attention_resolutions": ()},
    "24 channels": {"base_channels": 24},
    "48 channels": {"base_channels": 48},
    "not folded": {"patch_size": 1},
    "batch 16": {"batch_size": 16},
    "batch 64, twice the rate": {"batch_size": 64, "lr": 2e-3},
    "twice the rate": {"lr": 2e-3},
    "batch 128": {"batch_size": 128},
    "EMA 0.999": {"ema": 0.999},
    "linear": {"schedule": "linear"},
    "sigmoid": {"schedule": "sigmoid"},
}


def run(name: str, seconds: float, judge: DigitFeatures) -> dict:
    config = TrainConfig(**VARIANTS[name])
    data = load_digits("train")
    state = new_state(config, None if config.conditional is False else 10)
    start, losses = time.perf_counter(), []
    while (elapsed := time.perf_counter() - start) < seconds:
        # train_step sets the learning rate from step / steps: guess `steps` anew from the speed so far
        guess = max(state.step + 1, round((state.step + 1) * seconds / max(elapsed, 1e-3)))
        config = dataclasses.replace(config, steps=guess if state.step > 20 else 10**6)
        batch = data.batch(batch_index(len(data), config.batch_size, state.step, config.seed))
        losses.append(train_step(state, batch, config).item())
    y = None if config.conditional is False else torch.arange(256) % 10
    row = {"variant": name, "seconds": seconds, "steps": state.step, "images": state.step * config.batch_size,
           "parameters": sum(p.numel() for p in state.denoiser.model.parameters()), "loss": sum(losses[-200:]) / 200}
    for eta in (0.0, 1.0):
        images = ddim_sample(state.averaged, 256, steps=50, seed=1, eta=eta, y=y, progress=False)
        row[f"confident, eta {eta:.0f}"] = round((judge.confidence(images)[0] >= 0.9).double().mean().item(), 4)
    return row | {"judge": str(judge), "threads": torch.get_num_threads(), "torch": torch.__version__,
                  "date": time.strftime("%Y-%m-%d"), "processor": platform.machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"some of: {', '.join(VARIANTS)}")
    parser.add_argument("--seconds", type=float, default=200)
    args = parser.parse_args()
    judge = DigitFeatures()
    RESULTS.parent.mkdir(exist_ok=True)
    for name in args.variants or VARIANTS:
        row = run(name, args.seconds, judge)
        print(json.dumps(row), flush=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
