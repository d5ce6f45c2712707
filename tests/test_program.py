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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT that can be sent to one process")
def test_ctrl_c_keeps_what_was_trained_and_resuming_ends_as_if_nothing_had_happened(tmp_path):
    started = subprocess.Popen([*PROGRAM, "train", "--out", "cut", "--steps", "60", *TINY], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 130, err
    assert "keeps what was trained" in out and "Traceback" not in err
    steps = sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir())
    assert steps and int(steps[-1][5:]) < 60

    assert program("train", "--resume", "--out", "cut", cwd=tmp_path).returncode == 0
    assert program("train", "--out", "whole", "--steps", "60", *TINY, cwd=tmp_path).returncode == 0
    for name in ("model.safetensors", "training.safetensors"):
        cut, whole = (load_file(tmp_path / run / "checkpoints" / "step-00000060" / name) for run in ("cut", "whole"))
        assert cut.keys() == whole.keys() and all(cut[k].equal(whole[k]) for k in whole)
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == sorted(set(rows)) and rows[-1] == 60
