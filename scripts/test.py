"""Runs all tests of the project and ends with one line, "N passed, N failed": what the README's second command calls.

1. `nbdev_test` runs every notebook, two at a time, one thread each. The checks of the equations write their entries
   to a folder of this run.
2. pytest runs tests/, which holds what a notebook cell cannot test, two at a time as well; one test compares that
   folder with the text.
"""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENV = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ,  # see ddpm_course/__init__.py: many tests load torch first
       "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONUTF8": "1",  # two workers on two cores
       "DDPM_COURSE_PROGRESS": ""}  # the solutions that run here are not those of the person whose home this is
NBDEV_TEST = shutil.which("nbdev_test", path=sysconfig.get_path("scripts"))  # of this environment, also when inactive


def run_and_show(command: list[str], **variables: str) -> subprocess.CompletedProcess:
    run = subprocess.run(command, cwd=ROOT, env=ENV | variables, text=True, encoding="utf-8", stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    print(run.stdout, flush=True)
    return run


def notebooks() -> tuple[int, int]:
    run = run_and_show([NBDEV_TEST, "--n_workers", "2", "--timing", "--do_print"])
    done = len(set(re.findall(r"Completed (.+\.ipynb)", run.stdout)))
    failed = len(re.findall(r"^\s+\S+\.ipynb\s*$", run.stdout.partition("Failed On The Following")[2], re.M))
    if run.returncode and not failed:
        failed = 1  # it stopped before it could say which
    return done - failed, failed


def pytest() -> tuple[int, int]:
    run = run_and_show([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal",
                        "-o", "tmp_path_retention_policy=failed", "--durations=8", "tests"], MPLBACKEND="agg")
    passed, failed = (sum(map(int, re.findall(rf"(\d+) {word}", run.stdout))) for word in ("passed", "(?:failed|err)"))
    return passed, max(failed, int(run.returncode != 0))


def main() -> int:
    with tempfile.TemporaryDirectory() as ledger:
        ENV["DDPM_COURSE_LEDGER"] = ledger
        passed, failed = (sum(pair) for pair in zip(notebooks(), pytest()))
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
