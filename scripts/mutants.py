"""Breaks one line at a time, in a copy, and sees whether the test that should notice does.

    python scripts/mutants.py            all of them, about five minutes on two cores
    python scripts/mutants.py storage    those whose file has this in its name

What a notebook exports is broken in the notebook, whose own checks should notice; a plain module is broken where it
stands. Exits with 1 where a mutant survives, or is out of date because its line is no longer there.
"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTANTS = [  # file, what stands there, the mistake, the tests that should notice; a notebook notices by itself
    ("nbs/01_data.ipynb", "/ 127.5 - 1", "/ 128 - 1", ""),
    ("nbs/02_forward_process.ipynb", "return signal * x0 + sigma * as_float(noise)",
     "return signal * x0 + sigma**2 * as_float(noise)", ""),
    ("nbs/02_forward_process.ipynb", '"posterior_variance": betas * (1 - before)',
     '"posterior_variance": betas * (1 - now)', ""),
    ("nbs/05_schedules.ipynb", "max_beta: float = 0.999", "max_beta: float = 0.99", ""),
    ("nbs/06_time_embedding.ipynb", "(half - freq_shift)", "half", ""),
    ("ddpm_course/lib/arguments.py", "number > low if above else number >= low", "number >= low", "test_arguments.py"),
    ("ddpm_course/lib/storage.py", "os.fsync(handle)", "pass", "test_storage.py"),
    ("ddpm_course/lib/ledger.py", "difference / standard_error", "difference * standard_error", "test_ledger.py"),
    ("ddpm_course/lib/images.py", "image = ImageOps.exif_transpose(image)", "pass",
     "test_data_files.py -k orientation"),
    ("ddpm_course/lib/viz.py", "(255 / (high - low))).round()", "(255 / (high - low)))", "test_viz.py"),
    ("ddpm_course/lib/alt_text.py", "html.escape(alt)", "alt", "test_alt_text.py -k escaped"),
    ("ddpm_course/formats/diffusers.py", '"flip_sin_to_cos": False,', '"flip_sin_to_cos": True,',
     "test_diffusers_format.py"),
    ("ddpm_course/formats/diffusers.py", '"freq_shift": 1,', '"freq_shift": 0,',
     "test_diffusers_format.py"),
    ("ddpm_course/app/checkpoints.py", 'state.step = facts["step"]', "state.step = 0", "test_checkpoints.py"),
    ("ddpm_course/app/checkpoints.py", "state.ema.n_averaged.fill_(state.step)", "pass", "test_checkpoints.py"),
    ("ddpm_course/app/checkpoints.py", "min(losses, key=losses.get", "max(losses, key=losses.get",
     "test_checkpoints.py"),
    ("ddpm_course/training.py", "seed_of(c.seed, step, 2)", "seed_of(c.seed, 2)", "test_training.py"),
    ("ddpm_course/training.py", "if not loss_is_finite or not (norm_is_finite or overflowed):",
     "if not loss_is_finite:", "test_training.py -k finite"),
    ("nbs/10_training.ipynb", "min(self.decay, (1 + n) / (10 + n))", "self.decay", ""),
    ("ddpm_course/guidance.py", "p + self.scale * (c - p)", "c + self.scale * (c - p)",
     "test_faults_mathematics.py -k 14"),
    ("ddpm_course/check/exercise.py", "if not callable(mine)", "if False", "test_check.py -k function"),
]
ENV = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "DDPM_COURSE_PROGRESS": ""}


def copy_checkout(target: Path) -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def survives(file: str, old: str, new: str, tests: str) -> str:
    "What is wrong with this mutant; nothing where a test has noticed it."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy_checkout(copy)
        text = (copy / file).read_text(encoding="utf-8")
        if file.endswith(".ipynb"):
            old, new = (json.dumps(part)[1:-1] for part in (old, new))
        if old not in text:
            return "out of date: the line is not there any more"
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
        command = [sys.executable, "-m", "jupyter", "execute", file] if file.endswith(".ipynb") else \
            [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider",
             *(part if not part.endswith(".py") else f"tests/{part}" for part in tests.split())]
        run = subprocess.run(command, cwd=copy, env=os.environ | ENV | {"PYTHONPATH": str(copy)}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        noticed = "AssertionError" in run.stdout if file.endswith(".ipynb") else run.returncode == 1
        return "" if noticed else f"survives ({' '.join(command[1:])} ends with {run.returncode}): {run.stdout[-300:]}"


def main() -> None:
    chosen = [mutant for mutant in MUTANTS if not sys.argv[1:] or sys.argv[1] in mutant[0]]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (file, old, new, _), wrong in zip(chosen, pool.map(lambda mutant: survives(*mutant), chosen)):
            change = f"{old.strip()[:60]!r} -> {new.strip()[:60]!r}"
            print(f"{'GREEN' if wrong else 'red  '} {file}: {change}  {wrong}", flush=True)
            failed += bool(wrong)
    print(f"{len(chosen) - failed} of {len(chosen)} mutants were noticed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
