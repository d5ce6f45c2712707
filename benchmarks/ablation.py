"""Schedule, prediction, weighting and average of the weights: which of them matter for digits, at equal images?

    python benchmarks/ablation.py                          all 18 trainings of 1,000 updates, 40 minutes of one core
    python benchmarks/ablation.py --updates 3000 --seeds 0 1 --emas 0.995 none 0.99 0.999 --cells "cosine v simple" ...
    python benchmarks/ablation.py --updates 3000 --seeds 0 1 --emas 0.995 --cells "cosine v simple" --test
    python benchmarks/ablation.py --updates 20 --samples 140 --cells "cosine v simple" --out try.json --weights try

Every schedule with every prediction and every weighting; all else is as `TrainConfig` has it, and all cells with one
seed start from the same weights and see the same images, levels and noise. The averages of the weights are kept side by
side in one training, and judged in the order named, each for every cell. In n updates no decay is larger than
(1 + n) / (10 + n) (10.4): up to 890 updates all averages are one, and 0.999 is 0.995 up to 1,790.

Choices are made on training digits that no cell is trained on: of the 10,000 bundled ones the first 8,000 are learned,
the next 1,000 are the reference that samples are compared with, and from the last 1,000 comes the floor, as many real
digits as there are samples. Only `--test` looks at the 2,000 bundled test digits, for what has been chosen. The judge
has learned the training digits of MNIST, all of those: it does so for every cell alike.

Judged are 300 samples of 20 DDIM steps, unguided, from the same noise and with the labels of the first 300 references:
Frechet and kernel distance of their features (chapter 12), the share with a confidence of 0.9 or more, and, on 256
references, the error of v at eight signal-to-noise ratios that are the same for every schedule and prediction. Each
score has its standard error beside it; those of the distances are about the samples alone, the reference being common.

A row is written as soon as it is there, and one that is there is not made again: after a stop, start it anew. The
weights of a training stay in `--weights` (runs/ablation), so that another average costs no training; remove them where
the training itself has changed. Results go to benchmarks/results/ablation.json, with machine and date.
"""
import argparse
import itertools
import time
from pathlib import Path

import torch
from emoji_search import mean_and_error, v_error
from machine import machine
from torch import Tensor

from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state
from ddpm_course.data import ImageDataset, load_digits
from ddpm_course.ddim import ddim_sample
from ddpm_course.evaluation import DigitFeatures, frechet_distance, kernel_distance, standard_error
from ddpm_course.lib.storage import read_json, tensors_from_bytes, tensors_to_bytes, write_atomic, write_json
from ddpm_course.objective import Denoiser
from ddpm_course.training import EMA, training_steps

RESULTS = Path(__file__).parent / "results" / "ablation.json"
CELLS = [" ".join(cell) for cell in itertools.product(("cosine", "linear", "sigmoid"), ("v", "eps", "x0"),
                                                      ("simple", "min_snr"))]
EMAS = ("none", "0.99", "0.995", "0.999")
LEARNED, REFERENCES = slice(0, 8000), slice(8000, 9000)
STEPS = 20  # of DDIM


def part(data: ImageDataset, rows: slice) -> ImageDataset:
    return ImageDataset(data.images[rows], data.labels[rows], data.classes)


class Judge:
    "Scores samples against the first 1,000 images of `real`; the floor comes from those after them."
    def __init__(self, real: ImageDataset):
        self.judge, self.reference = DigitFeatures(), part(real, slice(0, 1000))
        self.features = self.judge.features(self.reference.batch(torch.arange(1000))[0])
        self.others = real.batch(torch.arange(1000, len(real)))[0]

    def scores(self, images: Tensor) -> dict[str, list[float]]:
        "Each score of `images` and its standard error."
        found, features = {}, self.judge.features(images)
        for name, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
            def score(made, distance=distance):
                return distance(self.features, made)
            found[name] = [round(score(features), 4), round(standard_error(score, features), 4)]
        return found | {"confident": mean_and_error((self.judge.confidence(images)[0] >= 0.9).double())}

    def floor(self, n: int) -> dict[str, list[float]]:
        return self.scores(self.others[:n])


def trained(config: TrainConfig, learned: ImageDataset, folder: Path) -> dict[str, Denoiser]:
    "One training, from the folder where it is there: a denoiser with the last weights ('none') and with each average."
    state = new_state(config, learned.classes)
    model, schedule, shape = state.denoiser.model, state.denoiser.schedule, state.denoiser.shape
    averages = {name: EMA(model, float(name)) for name in EMAS if name != "none"}
    networks = {"none": model} | {name: average.module for name, average in averages.items()}
    name = f"{config.schedule}-{config.prediction}-{config.weighting}-{config.steps}-{config.seed}"
    for _ in training_steps(state, learned, config) if not (folder / f"{name}-none.safetensors").exists() else ():
        for average in averages.values():
            average.update_parameters(model)
    for ema, network in reversed(networks.items()):  # the last weights are the last to be written: they stand for all
        file = folder / f"{name}-{ema}.safetensors"
        if state.step:
            write_atomic(file, tensors_to_bytes(network.state_dict()))
        network.load_state_dict(tensors_from_bytes(file.read_bytes(), str(file)))
    return {ema: Denoiser(network, schedule, config.prediction, shape=shape, classes=learned.classes).eval()
            for ema, network in networks.items()}


def judged(denoiser: Denoiser, judge: Judge, samples: int) -> dict:
    y = judge.reference.labels[:samples]
    images = ddim_sample(denoiser, samples, steps=STEPS, y=y, seed=1, progress=False)
    error = v_error(denoiser, judge.reference, torch.arange(256))
    return judge.scores(images) | {"v_error": mean_and_error(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, metavar="CELL",
                        help='such as "cosine v simple": schedule, prediction, weighting')
    parser.add_argument("--emas", nargs="+", choices=EMAS, default=["0.995", "none"])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--test", action="store_true", help="against the test digits: for what is chosen, once")
    parser.add_argument("--weights", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.weights.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    digits, judged_on = load_digits("train"), "test" if args.test else "held-out training"
    learned = part(digits, LEARNED)
    judge = Judge(load_digits("test") if args.test else part(digits, slice(8000, 10_000)))
    found = read_json(args.out) if args.out.exists() else {"rows": [], "floors": {}}
    found["floors"][judged_on] = judge.floor(args.samples)
    print("floor", found["floors"][judged_on], flush=True)
    for ema, seed, cell in itertools.product(args.emas, args.seeds, args.cells):
        asked = {"cell": cell, "ema": ema, "updates": args.updates, "seed": seed, "samples": args.samples,
                 "judged_on": judged_on}
        if any(asked.items() <= row.items() for row in found["rows"]):
            continue
        choices = dict(zip(("schedule", "prediction", "weighting"), cell.split()))
        config = TrainConfig(**choices, steps=args.updates, seed=seed)
        start = time.process_time()
        denoiser = trained(config, learned, args.weights)[ema]
        between = time.process_time()
        row = asked | {"images": args.updates * config.batch_size} | judged(denoiser, judge, args.samples)
        row |= {"seconds": [round(between - start), round(time.process_time() - between)],  # of training and judging
                "date": time.strftime("%Y-%m-%d")}
        print(row, flush=True)
        found["rows"].append(row)
        write_json(args.out, found | {"machine": machine("cpu"), "judge": str(judge.judge)})


if __name__ == "__main__":
    main()
