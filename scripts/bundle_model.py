"""Puts a trained run into the package as the bundled model "digits", in half precision and with its model card.

    python scripts/bundle_model.py runs/box --hours 1.2 --machine "2 CPU cores"

The metrics of the card are measured here: the scores of chapter 12 for 1,000 samples, beside those of real digits.
"""
import argparse
from pathlib import Path

import torch

from ddpm_course.app.evaluation import evaluate
from ddpm_course.data import load_digits
from ddpm_course.ddim import ddim_sample
from ddpm_course.evaluation import DigitFeatures
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.hub import load_pretrained, save_pretrained
from ddpm_course.lib.storage import MANIFEST, read_json

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--hours", type=float, required=True, help="how long the training took")
    parser.add_argument("--machine", required=True, help="what it was trained on")
    parser.add_argument("--date", required=True, help="when, as YYYY-MM-DD")
    args = parser.parse_args()

    newest = checkpoints(args.run)[0]
    training = read_json(newest / MANIFEST)["training"]
    config, denoiser = training["config"], load_pretrained(args.run)
    n, y, judge = 1000, torch.arange(250) % 10, DigitFeatures()
    drawn = torch.cat([ddim_sample(denoiser, 250, steps=50, y=y, seed=s, progress=False) for s in range(4)])
    held_out, known = (load_digits(part).batch(torch.arange(n))[0] for part in ("test", "train"))
    scores = "; ".join(f"{name} {made} (of real digits {real})"
                       for name, (made, real) in evaluate(drawn, held_out, known, judge).items())
    facts = {
        "data": {"mnist": "MNIST's 60,000 training digits, grey, 28 x 28, in [-1, 1] (LeCun, Cortes, Burges)"}.get(
            config["data"], config["data"]),
        "licence of the data": "CC BY-SA 3.0",
        "training": f"{training['step']:,} updates of {config['batch_size']} images, {args.hours} hours on "
                    f"{args.machine}, {args.date}; seed {config['seed']}, learning rate {config['lr']}, "
                    f"EMA {config['ema']}, label dropout {config['label_dropout']}",
        "metrics": f"of {n:,} drawn by class with DDIM in 50 steps (seeds 0 to 3) against as many held-out digits, by "
                   f"the judge {judge}; ± is 1.96 standard errors: {scores}",
        "limits": "draws digits in the style of MNIST and nothing else; folded pixels (patch_size 2) cannot be "
                  "expressed in diffusers",
        "licence of the weights": "Apache-2.0",
    }
    target = ROOT / "ddpm_course" / "assets" / "models" / "digits"
    save_pretrained(denoiser, target, facts=facts, half=True)
    size = sum(f.stat().st_size for f in target.iterdir())
    print(f"{target.relative_to(ROOT)}: {size / 1e6:.2f} MB", facts["metrics"], sep="\n")


if __name__ == "__main__":
    main()
