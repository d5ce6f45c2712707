"""The program as a process of its own: started from another folder, interrupted for real, resumed."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

PROGRAM = [sys.executable, "-m", "ddpm_course"]
TINY = ["--base-channels", "8", "--groups", "4", "--num-timesteps", "50", "--sample-steps", "3", "--samples", "4",
        "--batch-size", "4", "--log-every", "5", "--save-every", "20", "--device", "cpu"]


def program(*args, cwd):
    return subprocess.run([*PROGRAM, *args], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    run = program("train", "--data", "nowhere", cwd=tmp_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "'nowhere'" in run.stderr and not run.stdout
    assert not list(tmp_path.iterdir())


def test_the_bundled_model_draws_the_same_picture_for_the_same_seed(tmp_path):
    for name, seed in (("a.png", "0"), ("b.png", "0"), ("c.png", "1")):
        run = program("sample", "digits", "--n", "4", "--steps", "4", "--seed", seed, "--out", name, "--device", "cpu",
                      cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of 60 steps that nobody interrupts."
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert program("train", "--out", "run", "--steps", "60", *TINY, cwd=folder).returncode == 0
    return folder / "run"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that can be sent to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_keeps_what_was_trained_and_resuming_ends_as_if_nothing_had_happened(tmp_path, whole, number):
    started = subprocess.Popen([*PROGRAM, "train", "--out", "cut", "--steps", "60", *TINY], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    started.send_signal(number)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 128 + number, err
    assert "keeps what was trained" in out and not err
    steps = sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir())
    assert steps and int(steps[-1][5:]) < 60

    assert program("train", "--resume", "--out", "cut", cwd=tmp_path).returncode == 0
    for name in ("model.safetensors", "training.safetensors"):
        cut, other = (load_file(run / "checkpoints" / "step-00000060" / name) for run in (tmp_path / "cut", whole))
        assert cut.keys() == other.keys() and all(cut[k].equal(other[k]) for k in other)
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == sorted(set(rows)) and rows[-1] == 60


def test_the_program_is_quiet_where_nobody_watches_and_says_where_a_run_stands(whole):
    told = program("info", "run", cwd=whole.parent)
    assert told.returncode == 0 and not told.stderr
    for words in ("finished, 60 of 60 steps", "digits: 10000 of 28 x 28", "2000 held out", "step-00000060", "loss"):
        assert words in told.stdout
    again = program("train", "--resume", "--out", "run", cwd=whole.parent)
    assert again.returncode == 0 and not again.stderr and again.stdout.count("\n") == 1
