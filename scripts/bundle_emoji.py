"""Puts a trained run into the package as the bundled model "emoji", and measures whether it invents or remembers.

    python scripts/bundle_emoji.py runs/emoji --hours 1.7 --machine "one CPU core" --date 2026-11-27

One sample is drawn for each held-out emoji, of the same category, so that both sets have the same mix. For each picture
of the two sets the nearest of the training pictures and their mirror images is looked up: root mean square over pixels,
in grey levels of 255, as it is and after a Gaussian blur (standard deviation 1.5 pixels), which forgives a shift. The
numbers go to the model's card and to benchmarks/results/emoji_model.json, eight samples of each category beside their
nearest training pictures to nbs/images/emoji-and-nearest.png.
"""
import argparse
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ddpm_course.data import load_emoji
from ddpm_course.ddim import ddim_sample
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.guidance import with_guidance
from ddpm_course.hub import load_pretrained, save_pretrained
from ddpm_course.lib.storage import MANIFEST, read_json
from ddpm_course.lib.viz import to_pixels

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from emoji_search import v_error  # noqa: E402

SCALE, STEPS = 2.0, 50


def blur(x: Tensor, std: float = 1.5) -> Tensor:
    offsets = torch.arange(-5, 6).float()
    k = torch.exp(-offsets**2 / (2 * std**2))
    k = (k / k.sum()).repeat(3, 1)
    x = F.pad(x, (5, 5, 5, 5), mode="replicate")
    return F.conv2d(F.conv2d(x, k[:, None, None, :], groups=3), k[:, None, :, None], groups=3)


def nearest(x: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    "The distance to the nearest of `pool` (N, 3, H, W) and of its mirror images, in grey levels, and which it is."
    flat = x.flatten(1)
    d, index = torch.stack([torch.cdist(flat, p.flatten(1)) for p in (pool, pool.flip(-1))]).amin(0).min(1)
    return d / math.sqrt(flat.shape[1]) * 127.5, index


def with_error(x: Tensor, digits: int = 1) -> str:
    return f"{x.mean():.{digits}f} +- {x.std() / math.sqrt(len(x)):.{digits}f}"


def share(x: Tensor) -> str:
    p = x.float().mean().item()
    return f"{p:.1%} +- {math.sqrt(p * (1 - p) / len(x)):.1%}"


@torch.no_grad()
def v_errors(denoiser, train, test) -> dict:
    "The error of v as the search of the recipe has it, on the held-out emoji and on as many training emoji."
    index = torch.arange(len(test))
    return {name: with_error(v_error(denoiser, data, index), 4)
            for name, data in (("held out", test), ("training", train))}


def picture(samples: Tensor, found: Tensor, train, file: Path, scale: int = 2) -> None:
    "A row a category: each sample in a red frame, and right of it the nearest training picture."
    per, side, left = len(samples) // len(train.classes), 32 * scale, 120
    page = Image.new("RGB", (left + per * (2 * side + 10), len(train.classes) * (side + 6)), "white")
    draw, originals = ImageDraw.Draw(page), to_pixels(train.images[found])
    for i, (sample, original) in enumerate(zip(to_pixels(samples), originals)):
        row, column = divmod(i, per)
        x, y = left + column * (2 * side + 10), row * (side + 6)
        if column == 0:
            draw.text((4, y + side // 2 - 5), train.classes[row], fill="black")
        for k, part in enumerate((sample, original)):
            page.paste(Image.fromarray(part).resize((side, side), Image.Resampling.NEAREST), (x + k * side, y))
        draw.rectangle((x, y, x + side - 1, y + side - 1), outline=(200, 0, 0))
    page.save(file, optimize=True)


def measure(denoiser, train, test) -> dict:
    "What the card says about invention and memory, as words with standard errors."
    (x_train, _), (x_test, y_test) = (data.batch(torch.arange(len(data))) for data in (train, test))
    samples = ddim_sample(with_guidance(denoiser, SCALE), len(y_test), steps=STEPS, y=y_test, seed=1, progress=False)
    report = {"samples": len(samples), "guidance": SCALE, "steps": STEPS}
    for what, f in (("pixels", lambda x: x), ("blurred", blur)):
        drawn, held_out = (nearest(f(x), f(x_train))[0] for x in (samples, x_test))
        close = held_out.quantile(0.05)
        report[what] = {"samples": with_error(drawn), "held out": with_error(held_out),
                        "samples nearer than the nearest 5% of held-out": share(drawn < close)}
    report["v error"] = v_errors(denoiser, train, test)
    return report


def on_the_way(run, train, test) -> dict:
    "The same error at the checkpoints that the run has kept, among them the one with the lowest on held-out images."
    return {read_json(folder / MANIFEST)["training"]["step"]: v_errors(load_pretrained(folder), train, test)
            for folder in reversed(checkpoints(run))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--hours", type=float, required=True, help="how long the training took")
    parser.add_argument("--machine", required=True, help="what it was trained on")
    parser.add_argument("--date", required=True, help="when, as YYYY-MM-DD")
    args = parser.parse_args()

    newest = checkpoints(args.run)[0]
    training = read_json(newest / MANIFEST)["training"]
    config, denoiser = training["config"], load_pretrained(newest)
    train, test = load_emoji("train"), load_emoji("test")
    y = torch.arange(len(train.classes)).repeat_interleave(8)
    shown = ddim_sample(with_guidance(denoiser, SCALE), len(y), steps=STEPS, y=y, seed=0, progress=False)
    picture(shown, nearest(shown, train.batch(torch.arange(len(train)))[0])[1], train,
            ROOT / "nbs" / "images" / "emoji-and-nearest.png")
    report = measure(denoiser, train, test) | {"on the way": on_the_way(args.run, train, test)}
    pixels, blurred, errors = report["pixels"], report["blurred"], report["v error"]
    lowest = min(report["on the way"], key=lambda step: float(report["on the way"][step]["held out"].split()[0]))
    facts = {
        "data": "the bundled emoji: 1,426 of Google's Noto Emoji, 32 x 32, colour, in [-1, 1], half of them mirrored "
                "at random",
        "licence of the data": "images Apache-2.0; flags public domain; packaging MIT, Cal Henderson",
        "training": f"{training['step']:,} updates of {config['batch_size']} images, {args.hours} hours on "
                    f"{args.machine}, {args.date}; seed {config['seed']}, learning rate {config['lr']}, EMA "
                    f"{config['ema']}, {config['precision']}, label dropout {config['label_dropout']}",
        "metrics": f"mean squared error of v at 8 signal-to-noise ratios, as benchmarks/emoji_search.py has it: "
                   f"{errors['held out']} on the {len(test)} held-out emoji, {errors['training']} on as many training "
                   f"emoji (one standard error over images); " + (
                       "no checkpoint on the way has less on the held-out ones" if lowest == training["step"] else
                       f"at update {lowest:,}, where the held-out ones were guessed best, "
                       f"{report['on the way'][lowest]['held out']} and {report['on the way'][lowest]['training']}: "
                       f"from there on it learns by heart, and draws cleaner shapes"),
        "invents or remembers": f"{len(test)} drawn with guidance {SCALE:g}, DDIM in {STEPS} steps, seed 1, one for "
                                f"each held-out emoji. Root mean square distance to the nearest training picture or "
                                f"its mirror image, in grey levels: samples {pixels['samples']}, held-out emoji "
                                f"{pixels['held out']}; after a blur of 1.5 pixels {blurred['samples']} and "
                                f"{blurred['held out']}. Nearer than the nearest 5% of held-out emoji: "
                                f"{pixels['samples nearer than the nearest 5% of held-out']}, blurred "
                                f"{blurred['samples nearer than the nearest 5% of held-out']}",
        "limits": "draws small pictures in the style of these emoji and nothing else; many are shapes without a name; "
                  "folded pixels (patch_size 2) cannot be expressed in diffusers",
        "licence of the weights": "Apache-2.0",
    }
    target = ROOT / "ddpm_course" / "assets" / "models" / "emoji"
    save_pretrained(denoiser, target, facts=facts, half=True)
    report |= {"date": args.date, "machine": args.machine, "updates": training["step"]}
    results = ROOT / "benchmarks" / "results" / "emoji_model.json"
    results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    size = sum(f.stat().st_size for f in target.iterdir())
    print(f"{target.relative_to(ROOT)}: {size / 1e6:.2f} MB", json.dumps(report, indent=1), sep="\n")


if __name__ == "__main__":
    main()
