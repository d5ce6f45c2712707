"""What memorising looks like: a network trained too long on 200 emoji, for chapter 12.

    python benchmarks/memorise.py                  about half an hour on one core
    python benchmarks/memorise.py --updates 300    a short try, which writes nothing

The first 200 training emoji of a fixed shuffle, without labels and not mirrored, so that a copy is a copy. At some
moments 64 emoji are drawn from the averaged weights (DDIM, 50 steps, the same noise each time). Each is compared with
the nearest of the 200, and so are the 158 held-out emoji, none of which was trained on: `copied` of chapter 12, and
the mean squared error of v on the 200 and on the held-out ones (emoji_search.py). Results go to
benchmarks/results/memorise.json, and to memorise.png: two rows for each moment, eight samples and below each the
training emoji nearest to it.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from emoji_search import BASE, mean_and_error, v_error
from machine import machine
from PIL import Image

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state
from ddpm_course.data import load_emoji, to_uint8
from ddpm_course.ddim import ddim_sample
from ddpm_course.evaluation import copied, nearest_neighbours
from ddpm_course.training import batch_index, train_step

RESULTS = Path(__file__).parent / "results"
IMAGES, SAMPLES, SHOWN = 200, 64, 8
MOMENTS = 250, 500, 1000, 2000, 4000, 8000, 16000  # updates


def look(denoiser, training: torch.Tensor, held_out: torch.Tensor) -> tuple[dict, np.ndarray]:
    "What samples have in common with the training images, in numbers and as two rows of pictures."
    noise = torch.randn(SAMPLES, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    drawn = ddim_sample(denoiser, noise, steps=50, progress=False)
    apart, index = nearest_neighbours(drawn, training)
    share, error = copied(drawn, held_out, training)
    grey_levels = apart / drawn[0].numel() ** 0.5 * 127.5  # root mean square difference of a channel, 0 to 255
    rows = torch.cat([drawn[:SHOWN], training[index[:SHOWN]]])
    picture = to_uint8(rows).view(2, SHOWN, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(64, SHOWN * 32, 3).numpy()
    return {"copied": [round(share, 4), round(error, 4)], "grey levels to the nearest": mean_and_error(grey_levels),
            "different training emoji that are nearest": len(index.unique())}, picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(**BASE | {"flip": False, "steps": args.updates, "precision": args.precision, "ema": 0.999})
    emoji, held_out = load_emoji("train"), load_emoji("test")
    chosen = torch.randperm(len(emoji), generator=torch.Generator().manual_seed(0))[:IMAGES]
    training, real = emoji.batch(chosen)[0], held_out.batch(torch.arange(len(held_out)))[0]
    state, rows, pictures, began = new_state(config, None), [], [], time.process_time()
    for step in range(1, args.updates + 1):
        train_step(state, (training[batch_index(IMAGES, config.batch_size, step - 1, config.seed)], None), config)
        if step in MOMENTS or step == args.updates:
            found, picture = look(state.averaged, training, real)
            errors = {name: mean_and_error(v_error(state.averaged, data, index)) for name, data, index in (
                ("v error, training", emoji, chosen), ("v error, held out", held_out, torch.arange(len(held_out))))}
            rows.append({"updates": step, "processor_seconds": round(time.process_time() - began), **found, **errors})
            pictures.append(picture)
            print(json.dumps(rows[-1]), flush=True)
    if args.updates >= MOMENTS[3]:
        about = {"machine": machine("cpu"), "date": time.strftime("%Y-%m-%d"), "images": IMAGES, "samples": SAMPLES,
                 "held out": len(held_out), "batch_size": config.batch_size, "precision": config.precision,
                 "parameters": sum(p.numel() for p in state.denoiser.model.parameters())}
        (RESULTS / "memorise.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
        Image.fromarray(np.concatenate(pictures)).save(RESULTS / "memorise.png", optimize=True)


if __name__ == "__main__":
    main()
