"""What does more work cost? Time and memory of training against batch, image size, width and number of images.

    python benchmarks/cost.py                             # less than ten minutes of one quiet core; Linux only
    python benchmarks/cost.py --rounds 1 --seconds 0.5    # a short try
    python benchmarks/cost.py batch width                 # some of the series

Each point is a training of its own in a process of its own: the default recipe on 28x28 pixels without labels, changed
in one number. One thread and the processor time it takes, so that it does not matter what else the machine does; where
images are decoded by other processes, theirs is counted too. Memory is the highest resident memory of the process,
above that of a tiny training in the same process; of the processes that decode, what each of them holds alone.

    batch          images in a batch
    image_size     side of the images, against the number of pixels
    no_attention   the same without the attention at the smallest resolution
    width          channels of the first level, the time against their square, the memory against themselves
    in_memory      number of images, held in memory
    in_files       number of images in PNG files, read as they are needed; up to 200,000, in a temporary folder

All points of a round run one after the other, then those of the next; reported are the medians. To each series belongs
the straight line with the smallest relative squares, and by how much it is off at worst. Results are written after
each round, to benchmarks/results/cost.json (or --out).
"""
import argparse
import datetime
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from machine import machine
from PIL import Image
from unet import peak_of_this_process

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state
from ddpm_course.data import ImageDataset, load_digits, load_images
from ddpm_course.training import training_steps

RESULTS = Path(__file__).parent / "results" / "cost.json"
SERIES = {"batch": (1, 4, 16, 64, 256), "image_size": (16, 32, 64, 128), "no_attention": (16, 32, 64, 128),
          "width": (16, 32, 64, 128), "in_memory": (2_000, 20_000, 200_000), "in_files": (2_000, 20_000, 200_000)}
SETTINGS = {"batch": lambda x: {"batch_size": x}, "image_size": lambda x: {"image_size": x},
            "no_attention": lambda x: {"image_size": x, "attention_resolutions": ()},
            "width": lambda x: {"base_channels": x}}
SIDES = "image_size", "no_attention"  # the series whose x is the side of the images
POWERS = {"image_size": (2, 2), "no_attention": (2, 2), "width": (2, 1)}  # of x, for time and memory; otherwise 1


def write_files(folder: Path, n: int) -> None:
    "`n` digits as PNG files."
    folder.mkdir()
    pngs = []
    for image in load_digits().images[:500, 0].numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        pngs.append(file.getvalue())
    for i in range(n):
        (folder / f"{i:06d}.png").write_bytes(pngs[i % len(pngs)])


def spent() -> float:
    "Seconds of processor time of this process and of those that decode for it, running or ended."
    ticks = 0
    for other in multiprocessing.active_children():
        fields = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user and in system mode
    times = os.times()
    return time.process_time() + times.children_user + times.children_system + ticks / os.sysconf("SC_CLK_TCK")


def held_alone() -> float:
    "MB of the processes that decode, without what they share with this one."
    lines = [line.split() for other in multiprocessing.active_children()
             for line in Path(f"/proc/{other.pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line[1]) for line in lines if line[0].startswith("Private_")) / 1e3


def train_for(seconds: float, data, **settings) -> dict:
    "Updates for so many seconds of processor time, at least two: what one takes, and memory."
    config = TrainConfig(**{"conditional": False, "device": "cpu", "steps": 10**6} | settings)
    steps = training_steps(new_state(config), data, config)
    next(steps)  # warm up
    start, done = spent(), 0
    while done < 2 or spent() - start < seconds:
        next(steps)
        done += 1
    each, alone = (spent() - start) / done, held_alone()
    steps.close()
    return {"seconds_an_update": each, "images_a_second": config.batch_size / each, "workers_mb": alone}


def point(name: str, x: int, args) -> dict:
    "One measurement, in a process of its own."
    def pixels(n, side=28):
        return ImageDataset(torch.randint(256, (n, 1, side, side), dtype=torch.uint8))
    train_for(0, pixels(100), base_channels=16, batch_size=1)  # loads what is loaded when it is first used
    before, start = peak_of_this_process(), spent()
    if name == "in_files":
        data = load_images(args.folder / str(x), image_size=28, channels=1, memory=0, workers=TrainConfig.workers)
    else:
        data = pixels(x if name == "in_memory" else 1000, x if name in SIDES else 28)
    opened = spent() - start
    found = train_for(args.seconds, data, **SETTINGS.get(name, lambda x: {})(x))
    return found | {"opening_seconds": opened, "peak_mb": peak_of_this_process() - before}


def line(x: list[float], y: list[float]) -> dict[str, float]:
    "The straight line with the smallest relative squares: its value at 0, its slope, and the largest relative error."
    x, y = np.array(x, float), np.array(y, float)
    (at_0, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(x)), rcond=None)
    return {"at_0": float(at_0), "slope": float(slope), "off": float(np.abs((at_0 + slope * x) / y - 1).max())}


def measure(args) -> Iterator[dict[str, dict[int, dict]]]:
    "After each round the medians so far, for each point of each series."
    found = {(name, x): [] for name in args.series or SERIES for x in SERIES[name] if x <= args.most}
    with tempfile.TemporaryDirectory() as folder:
        for n in (x for name, x in found if name == "in_files"):
            write_files(Path(folder) / str(n), n)
        for number in range(args.rounds):
            for (name, x), rows in found.items():
                command = [sys.executable, __file__, "--point", name, str(x), "--folder", folder,
                           "--seconds", str(args.seconds)]
                run = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
                rows.append(json.loads(run.stdout))
                print(f"round {number + 1}, {name} {x}: {run.stdout.strip()}", flush=True)
            medians = {}
            for (name, x), rows in found.items():
                medians.setdefault(name, {})[x] = {key: round(statistics.median(row[key] for row in rows), 5)
                                                   for key in rows[0]}
            yield medians


def lines(found: dict[str, dict[int, dict]]) -> dict[str, dict[str, dict]]:
    "For each series the lines of time and memory, and of the time that opening takes."
    return {name: {key: line([x**power for x in points], [row[key] for row in points.values()])
                   for key, power in zip(("seconds_an_update", "peak_mb", "opening_seconds"),
                                         (*POWERS.get(name, (1, 1)), 1))}
            for name, points in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="*", metavar="SERIES", help=f"some of: {', '.join(SERIES)}; all, if left out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="of processor time for each point in a round")
    parser.add_argument("--most", type=int, default=200_000, help="leave out what is larger, for a short try")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)  # what the processes are started with
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.point:
        print(json.dumps(point(args.point[0], int(args.point[1]), args)))
        return
    if unknown := [name for name in args.series if name not in SERIES]:
        parser.error(f"SERIES is {unknown[0]!r}, expected one of: {', '.join(SERIES)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(measure(args), 1):
        about = {"date": datetime.date.today().isoformat(), **machine("cpu"), "rounds": number,
                 "seconds": args.seconds, "batch_size": TrainConfig.batch_size}
        fitted = lines(found)
        args.out.write_text(json.dumps(about | {"lines": fitted, "series": found}, indent=1) + "\n", encoding="utf-8")
    for name, both in fitted.items():
        for key, fit in both.items():
            print(f"{name}, {key}: {fit['at_0']:.4g} at 0, slope {fit['slope']:.4g}, off by at most {fit['off']:.1%}")


if __name__ == "__main__":
    main()
