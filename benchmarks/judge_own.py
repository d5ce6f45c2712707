"""Trains the DDPM of one's own, as a reader's file is trained, and asks how many of its 64 digits the judge is sure of.

    python benchmarks/judge_own.py tests/my_ddpm.py --at-least 30

Exits with 1 where a piece is wrong, or where there are fewer.
"""
import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from ddpm_course import check

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file", type=Path)
parser.add_argument("--at-least", type=int, default=0)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:  # the picture is written beside the file
    start, own = time.perf_counter(), shutil.copy(args.file, folder)
    verdict = check.my_ddpm(own, record=False)
sure = re.search(r"sure of (\d+) of your 64", verdict.text)
print(f"{time.perf_counter() - start:.0f} s")
sys.exit(not (verdict and sure and int(sure[1]) >= args.at_least))
