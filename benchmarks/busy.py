"""What do waiting threads cost on a machine that is in use? Images a second of the default training.

    python benchmarks/busy.py                        # about twelve minutes; start it on a quiet machine
    python benchmarks/busy.py --rounds 1 --seconds 3   # a short try

The threads of PyTorch on the CPU are OpenMP's. While they wait for each other they spin, unless the environment says
otherwise before torch is loaded, which the package sees to when it is imported first (`ddpm_course/__init__.py`). Three
ways are compared, one after the other in every round, alone and beside one and two processes that only compute:

    package    what the package sets: OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=1000, so a moment's spinning
    passive    OMP_WAIT_POLICY=PASSIVE alone: no spinning
    as torch   nothing set: spinning for milliseconds

Reported are the medians over the rounds. Results go to benchmarks/results/busy.json (or --out).
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_PROC_BIND")
WAYS = {"package": ("ddpm_course", {}), "passive": ("ddpm_course", {"OMP_WAIT_POLICY": "PASSIVE"}),
        "as torch": ("torch", {})}  # what is imported first, and what is set
WARMUP = 2  # updates before the clock starts; beside others one may take ten seconds
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # until this process is gone


def train_for(seconds: float) -> None:
    "Prints how many images a second the default training gets through."
    from ddpm_course.app.config import TrainConfig
    from ddpm_course.app.run import new_state, training_steps
    from ddpm_course.data import load_digits

    config = TrainConfig(device="cpu")
    steps = training_steps(new_state(config, 10), load_digits(), config)
    for _ in range(WARMUP):
        next(steps)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(steps)
        done += 1
    print(done * config.batch_size / (time.perf_counter() - start))


def images_a_second(way: str, seconds: float) -> float:
    "In a new process, without what the caller has set for OpenMP."
    first, variables = WAYS[way]
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    code = f"import {first}, runpy, sys; sys.argv[1:] = ['--child', '--seconds', '{seconds}']; " \
           f"runpy.run_path({__file__!r}, run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], env=env, check=True, text=True, stdout=subprocess.PIPE)
    return float(run.stdout)


def beside(busy: int, args) -> dict[str, float]:
    "The medians beside `busy` processes that compute all the time."
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        rounds = [{way: images_a_second(way, args.seconds) for way in WAYS}
                  for _ in range(args.rounds)]
    finally:
        for other in others:
            other.kill()
            other.wait()
    return {name: round(statistics.median(r[name] for r in rounds), 1) for name in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "busy.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train_for(args.seconds)
        return
    measured = {}
    for busy in (0, 1, 2):
        measured[str(busy)] = beside(busy, args)
        print(f"beside {busy} busy processes:", measured[str(busy)], "images/s", flush=True)
    from machine import machine
    about = {key: value for key, value in machine("cpu").items() if key != "threads"}  # those of this process
    args.out.write_text(json.dumps({"date": datetime.date.today().isoformat(), **about, "rounds": args.rounds,
                                    "seconds": args.seconds, "images_a_second_beside": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
