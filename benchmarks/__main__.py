"""Runs the benchmarks, one after the other, and builds the table of what they have found.

    python benchmarks                    all of them: about five hours of a quiet machine with two cores
    python benchmarks unet samplers      some of them
    python benchmarks --list             what there is, and how long each takes

The speeds come first, as they need the quiet machine most. One that fails is named at the end; the others go on. Rows
of time_to_digits, ablation and sampler_ablation that are there are not made again: to measure anew, remove their file
in benchmarks/results.
"""
import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = "diffusers", "denoising_diffusion_pytorch"
RUNS = {  # name: (minutes, script, its options)
    "unet": (10, "unet.py"),
    "unet_compiled": (10, "unet.py", "--compile", "--peak", "0", "--profile", "0", "--out",
                      "benchmarks/results/unet_compiled.json"),
    "train": (7, "train.py"),
    "samplers": (3, "samplers.py"),
    "busy": (12, "busy.py"),
    "cost": (10, "cost.py"),
    "sliders": (20, "sliders.py"),
    "time_to_digits": (120, "time_to_digits.py"),
    "ablation": (40, "ablation.py"),
    "sampler_ablation": (10, "sampler_ablation.py"),
    "emoji_search": (75, "emoji_search.py"),
    "memorise": (30, "memorise.py"),
    "watch_run": (3, "watch_run.py", "--steps", "1000"),
}


def main() -> int:
    parser = argparse.ArgumentParser("python benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(RUNS)}; all, if left out")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in RUNS]:
        parser.error(f"NAME is {unknown[0]!r}, expected one of: {', '.join(RUNS)}")
    chosen = {name: RUNS[name] for name in args.names or RUNS}
    if args.list:
        for name, (minutes, *command) in chosen.items():
            print(f"{name:18}{minutes:4} min   python benchmarks/{' '.join(command)}")
        return 0
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        parser.error(f"{' and '.join(missing)} cannot be imported, and results without them would replace those with "
                     'them: pip install "ddpm_course[bench]"')
    failed = []
    for name, (minutes, script, *options) in chosen.items():
        print(f"--- {name}, about {minutes} minutes", flush=True)
        start = time.perf_counter()
        if subprocess.run([sys.executable, f"benchmarks/{script}", *options], cwd=ROOT).returncode:
            failed.append(name)
        print(f"--- {name}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    failed += ["table"] if subprocess.run([sys.executable, "benchmarks/table.py"], cwd=ROOT).returncode else []
    print(f"failed: {', '.join(failed)}" if failed else "all done; the table is in benchmarks/README.md")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
