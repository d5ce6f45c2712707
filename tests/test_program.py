"""The program as a process of its own: started from another folder, interrupted for real, resumed."""
import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm_course.app.cli import main
from ddpm_course.app.options import SampleConfig
from ddpm_course.ddim import ddim_sample
from ddpm_course.guidance import with_guidance
from ddpm_course.hub import load_pretrained
from ddpm_course.lib.viz import save_grid

PROGRAM = [sys.executable, "-m", "ddpm_course"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}  # the number of threads may change the last bits
TINY = ["--base-channels", "8", "--groups", "4", "--num-timesteps", "50", "--sample-steps", "3", "--samples", "4",
        "--batch-size", "4", "--log-every", "5", "--save-every", "20", "--validation", "16", "--previews", "2",
        "--device", "cpu"]


def program(*args, cwd):
    return subprocess.run([*PROGRAM, *args], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    run = program("train", "--data", "nowhere", cwd=tmp_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "'nowhere'" in run.stderr and not run.stdout
    assert not list(tmp_path.iterdir())


def test_the_bundled_model_draws_the_same_picture_for_the_same_seed(tmp_path):
    args = ["sample", "digits", "--n", "4", "--steps", "4", "--device", "cpu", "--seed"]
    for name in ("a.png", "b.png"):  # two processes
        run = program(*args, "0", "--out", name, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    assert main([*args, "1", "--out", str(tmp_path / "c.png")]) == 0
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize("options, guidance, eta, y", [
    ([], None, 0.0, None), (["--guidance", "1"], 1.0, 0.0, None), (["--eta", "1"], None, 1.0, None),
    (["--y", "7"], None, 0.0, 7)])
def test_what_is_asked_of_sample_reaches_the_picture(tmp_path, options, guidance, eta, y):
    wanted, written = tmp_path / "wanted.png", tmp_path / "written.png"
    guidance = SampleConfig("digits").guidance if guidance is None else guidance
    model = with_guidance(load_pretrained("digits"), guidance)
    save_grid(ddim_sample(model, 3, steps=4, seed=5, eta=eta, y=torch.arange(3) if y is None else y, progress=False),
              wanted)
    args = ["sample", "digits", "--n", "3", "--steps", "4", "--seed", "5", "--device", "cpu", "--out", str(written)]
    assert main([*args, *options]) == 0 and written.read_bytes() == wanted.read_bytes()
    assert main(args) == 0 and (written.read_bytes() == wanted.read_bytes()) == (not options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of 60 steps that nobody interrupts."
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert program("train", "--out", "run", "--steps", "60", *TINY, cwd=folder).returncode == 0
    return folder / "run"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that can be sent to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_keeps_what_was_trained_and_resuming_ends_as_if_nothing_had_happened(tmp_path, whole, number):
    started = subprocess.Popen([*PROGRAM, "train", "--out", "cut", "--steps", "60", *TINY], cwd=tmp_path, env=ENV,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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

    torch.set_num_threads(1)
    assert main(["train", "--resume", "--out", str(tmp_path / "cut")]) == 0
    for name in ("model.safetensors", "training.safetensors"):
        cut, other = (load_file(run / "checkpoints" / "step-00000060" / name) for run in (tmp_path / "cut", whole))
        assert cut.keys() == other.keys() and all(cut[k].equal(other[k]) for k in other)
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == sorted(set(rows)) and rows[-1] == 60


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that can be sent to a group of processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_reaches_the_processes_that_decode_images_too(tmp_path, number):
    (tmp_path / "pictures").mkdir()
    for i in range(16):
        Image.new("L", (28, 28), 10 * i).save(tmp_path / "pictures" / f"{i}.png")
    started = subprocess.Popen(
        [*PROGRAM, "train", "--data", "pictures", "--memory", "0", "--workers", "2", "--out", "run", "--steps", "5000",
         *TINY], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    assert json.loads((tmp_path / "run" / "data.json").read_text())["in_memory"] is False
    os.killpg(started.pid, number)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 128 + number and "keeps what was trained" in out and not err, err
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) in (1, 2, 3)


def test_the_program_is_quiet_where_nobody_watches_and_says_where_a_run_stands(whole):
    told = program("info", "run", cwd=whole.parent)
    assert told.returncode == 0 and not told.stderr
    for words in ("finished, 60 of 60 steps", "digits: 10000 of 28 x 28", "2000 held out", "step-00000060", "loss"):
        assert words in told.stdout
    again = program("train", "--resume", "--out", "run", cwd=whole.parent)
    assert again.returncode == 0 and not again.stderr and again.stdout.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_terminal_is_shown_the_loss_the_speed_and_the_time_left(tmp_path):
    import fcntl
    import pty
    import termios
    watched, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    started = subprocess.Popen([*PROGRAM, "train", "--out", "run", "--steps", "10", *TINY], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so where the other end is closed
        while part := os.read(watched, 4096):
            shown += part
    os.close(watched)
    assert started.wait(120) == 0 and started.stdout.read().count(b"\n") == 1
    assert re.search(r"10/10 \[\d+:\d+<\d+:\d+, .*loss \d\.\d+, \d+ images/s", shown.decode()), shown
