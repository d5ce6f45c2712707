"""Sampler, number of steps, fresh noise, clipping: which of them matter for the bundled digits model?

    python benchmarks/sampler_ablation.py --seeds 1 2                         all 100 rows, 15 minutes of one core
    python benchmarks/sampler_ablation.py --samplers "DDPM small" "DDPM large" --calls 20 50     some of them
    python benchmarks/sampler_ablation.py --calls 5 --samples 140 --out try.json --features try

The samplers of `SAMPLERS` with 5, 10, 20 and 50 calls of the network (Heun, which takes an odd number, with one fewer
where it must), DDPM with 100 too; those of 5 and 20 calls also without clipping. 200 samples each, unguided; all of one
seed start from the same noise and have the labels of the first references. DDIM with eta 1 is DDPM with the small
variance (chapter 9) and not made twice. DDPM and DDIM visit evenly spaced levels, the solvers those of Karras et al.,
as their defaults are; "DDIM karras" is there to tell the one from the other.

The scores are those of `ablation.py`, and recall, against 1,000 training digits, with the floor beside them. The model
has learned these, as all of MNIST's training digits: that favours every sampler alike. With `--test` they are the 2,000
test digits: for what has been chosen, once.

Most rows are compared with another one, named in `against`: the large variance with the small one, the others with
DDIM, and every row without clipping with the same one that has it. How much farther from the reference it is stands in
`farther`, with a standard error from halves that both sides share. That is sharper than two scores side by side, since
both began with the same noise. Features are kept for it in `--features` (runs/sampler_ablation).

A row is written as soon as it is there, and one that is there is not made again: after a stop, start it anew. Results
go to benchmarks/results/sampler_ablation.json, with machine and date.
"""
import argparse
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from ablation import Judge, part
from machine import machine

from ddpm_course.data import load_digits
from ddpm_course.ddim import ddim_sample
from ddpm_course.ddpm import ddpm_sample
from ddpm_course.evaluation import frechet_distance, precision_recall, standard_error
from ddpm_course.hub import load_pretrained
from ddpm_course.lib.storage import read_json, tensors_from_bytes, tensors_to_bytes, write_atomic, write_json
from ddpm_course.solvers import dpmpp_sample, heun_sample, plms_sample

RESULTS = Path(__file__).parent / "results" / "sampler_ablation.json"
CALLS, UNCLIPPED = (5, 10, 20, 50, 100), (5, 20)


class Sampler(NamedTuple):
    sample: Callable
    against: str | None
    calls: tuple[int, ...] = CALLS[:4]


SAMPLERS = {
    "DDPM small": Sampler(functools.partial(ddpm_sample, variance="small"), None, CALLS),
    "DDPM large": Sampler(functools.partial(ddpm_sample, variance="large"), "DDPM small", CALLS),
    "DDIM": Sampler(ddim_sample, None),
    "DDIM eta 0.5": Sampler(functools.partial(ddim_sample, eta=0.5), "DDIM"),
    "DDIM karras": Sampler(functools.partial(ddim_sample, spacing="karras"), "DDIM"),
    "DPM-Solver++": Sampler(dpmpp_sample, "DDIM"),
    "Heun": Sampler(lambda *args, steps, **options: heun_sample(*args, steps=(steps + 1) // 2, **options), "DDIM"),
    "PLMS": Sampler(plms_sample, "DDIM"),
}


def file_of(features: Path, row: dict) -> Path:
    names = ("sampler", "calls", "clip", "seed", "samples", "judged_on")
    return features / ("-".join(str(row[name]) for name in names).replace(" ", "_") + ".safetensors")


def kept(features: Path, row: dict) -> torch.Tensor:
    file = file_of(features, row)
    return tensors_from_bytes(file.read_bytes(), str(file))["features"]


def drawn(asked: dict, denoiser, judge: Judge, features: Path) -> dict:
    "One row: the samples' features are written, their scores returned."
    nfe = []
    counting = denoiser.register_forward_hook(lambda *_: nfe.append(1))
    y, start = judge.reference.labels[:asked["samples"]], time.process_time()
    images = SAMPLERS[asked["sampler"]].sample(
        denoiser, asked["samples"], steps=asked["calls"], y=y, seed=asked["seed"],
        clip="denoiser" if asked["clip"] else None, progress=False)
    seconds = time.process_time() - start
    counting.remove()
    images = images.clamp(-1, 1)  # as anybody who looks at them does
    seen, real = judge.judge.features(images), judge.features[:asked["samples"]]
    write_atomic(file_of(features, asked), tensors_to_bytes({"features": seen}))

    def recall(real, made):
        return precision_recall(real, made).recall
    shares = {"recall": [round(recall(real, seen), 4), round(standard_error(recall, real, seen), 4)]}
    return asked | {"nfe": len(nfe)} | judge.scores(images) | shares | {
        "seconds": round(seconds, 1), "date": time.strftime("%Y-%m-%d")}


def farther(row: dict, other: dict, judge: Judge, features: Path) -> list[float]:
    "How much larger the Frechet distance of `row` is than that of `other`, and its error, from halves of both at once."
    both = torch.stack([kept(features, row), kept(features, other)], 1)

    def difference(both):
        return frechet_distance(judge.features, both[:, 0]) - frechet_distance(judge.features, both[:, 1])
    return [round(difference(both), 4), round(standard_error(difference, both), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), metavar="SAMPLER",
                        help=f"some of: {', '.join(SAMPLERS)}")
    parser.add_argument("--calls", type=int, nargs="+", choices=CALLS, default=CALLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--test", action="store_true", help="against the test digits: for what is chosen, once")
    parser.add_argument("--features", type=Path, default=Path("runs/sampler_ablation"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (args.features, args.out.parent):
        folder.mkdir(parents=True, exist_ok=True)
    judged_on = "test" if args.test else "training"
    judge = Judge(load_digits("test") if args.test else part(load_digits("train"), slice(8000, 10_000)))
    found = read_json(args.out) if args.out.exists() else {"rows": [], "floors": {}}
    found["floors"][judged_on] = judge.floor(args.samples)
    print("floor", found["floors"][judged_on], flush=True)
    denoiser = load_pretrained("digits")
    for clip, seed, calls, sampler in itertools.product((True, False), args.seeds, args.calls, args.samplers):
        asked = {"sampler": sampler, "calls": calls, "clip": clip, "seed": seed, "samples": args.samples,
                 "judged_on": judged_on}
        wanted = calls in (SAMPLERS[sampler].calls if clip else UNCLIPPED)
        if not wanted or any(asked.items() <= row.items() for row in found["rows"]):
            continue
        row = drawn(asked, denoiser, judge, args.features)
        change = {"sampler": SAMPLERS[sampler].against} if clip else {"clip": True}
        if other := next((r for r in found["rows"] if (asked | change).items() <= r.items()), None):
            row |= {"against": change, "farther": farther(row, other, judge, args.features)}
        print(row, flush=True)
        found["rows"].append(row)
        write_json(args.out, found | {"machine": machine("cpu"), "judge": str(judge.judge)})


if __name__ == "__main__":
    main()
