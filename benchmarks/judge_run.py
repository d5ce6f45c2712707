"""How good are a run's samples? Draws the same 64 as its samples.png and asks the judge of digits (chapter 12).

    python benchmarks/judge_run.py runs/digits --at-least 56

Exits with 1 where fewer than `--at-least` of the 64 get a confidence of 0.9 or more, or a digit does not occur.
"""
import argparse
import sys

import torch

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import guided
from ddpm_course.ddim import ddim_sample
from ddpm_course.evaluation import DigitFeatures
from ddpm_course.hub import load_pretrained

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run")
parser.add_argument("--at-least", type=int, default=0)
args = parser.parse_args()

denoiser = load_pretrained(args.run)
classes = denoiser.model.config.num_classes
y = torch.arange(64) % classes if classes else None
images = ddim_sample(guided(denoiser, TrainConfig.guidance), 64, steps=50, y=y, seed=0, progress=False)
judge = DigitFeatures()
confidence, digit = judge.confidence(images)
sure, seen = int((confidence >= 0.9).sum()), len(digit.unique())
as_asked = f", {int((digit == y).sum())} are the digit that was asked for" if classes == 10 else ""
print(f"{judge}: {sure} of 64 have a confidence of 0.9 or more, {seen} of 10 digits occur{as_asked}")
sys.exit(int(sure < args.at_least or (args.at_least > 0 and seen < 10)))
