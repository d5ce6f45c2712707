"""Two processes on one CPU (gloo, started by torchrun) end with the weights of one, to float precision."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm_course.app.checkpoints import is_whole
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import train
from ddpm_course.formats.model_folder import checkpoints

OPTIONS = {"image_size": 8, "base_channels": 8, "groups": 4, "channel_mults": [1, 2], "patch_size": 1, "dropout": 0.0,
           "num_timesteps": 20, "batch_size": 8, "accumulate": 2, "steps": 12, "warmup": 2, "flip": True, "previews": 2,
           "validation": 4, "save_every": 6, "log_every": 3, "samples": 2, "sample_steps": 2, "device": "cpu"}

SCRIPT = """
import builtins, dataclasses, json, os, signal, sys
import torch
from safetensors.torch import load_file, save_file
from ddpm_course.app import images, processes, run as module
from ddpm_course import training
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import train
from ddpm_course.lib.images import UnreadableImage

folder, options = sys.argv[1], json.loads(sys.argv[2])
rank = int(os.environ["RANK"])
checkpoint, steps, real_open = module._checkpoint, module.training_steps, open

def spy(state, config, *rest):  # every rank shows its weights whenever a checkpoint is written
    for name, model in (("raw", state.denoiser.model), ("average", state.ema.module)):
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(weights, f"{folder}/{name}-{rank}-{state.step}.safetensors")
    checkpoint(state, config, *rest)
    if rank == 0 and not config.resume:
        os.mkdir(f"{config.out}/checkpoints/.step-00000009.tmp")  # as a crash leaves it

def interrupted(state, data, config):  # one of the two is told to stop at step 4, between two lines of the log
    for step, loss in steps(state, data, config):
        if step == 4 and rank == 1 and not config.resume and config.memory and config.log_every == 3:
            signal.raise_signal(signal.SIGTERM)
        yield step, loss

def not_in_the_run(real):
    def call(file, *args, **options):
        writes = real is not real_open or "r" not in (args or ("r",))[0]
        assert not writes or not str(file).startswith(config.out), f"rank 1 writes {file}"
        return real(file, *args, **options)
    return call

module._checkpoint, module.training_steps = spy, interrupted
if rank == 1:
    images.load_images = None  # the first process reads them for both
config = TrainConfig(**options)
if rank == 1:
    builtins.open, os.replace, os.mkdir, os.rmdir = map(not_in_the_run, (open, os.replace, os.mkdir, os.rmdir))
run = train(config, progress=False)
assert not run.finished and run.step == 4 and run.stopped_by == signal.SIGTERM, run
assert train(dataclasses.replace(config, resume=True), progress=False).finished

# images that are decoded as they are needed, by a process of each rank
module._checkpoint = checkpoint
streamed = train(dataclasses.replace(config, out=f"{folder}/streamed", memory=0, workers=1), progress=False)
for name, tensor in load_file(f"{config.out}/checkpoints/step-00000012/training.safetensors").items():
    assert tensor.equal(load_file(f"{folder}/streamed/checkpoints/step-00000012/training.safetensors")[name]), name

# an image that one of the two cannot read any more: both stop, and what was trained is saved
read = processes.batches
def unreadable(data, indices, workers=0):
    for n, batch in enumerate(read(data, indices, workers=workers)):
        if rank == 1 and n == 8:
            raise UnreadableImage("somewhere/7.png could be read before and cannot be read now")
        yield batch
processes.batches = unreadable
try:
    train(dataclasses.replace(config, out=f"{folder}/unreadable", memory=0, workers=0), progress=False)
except UnreadableImage as error:
    assert ("7.png" if rank == 1 else "another process") in str(error), error
    assert "; the 8 updates until then are saved in" in str(error), error
else:
    raise AssertionError("nobody noticed the image")
processes.batches = read

# a picture with a NaN in the half of one rank, at update 7: both stop, with weights that it has not touched
update = training.train_step
def spoiled(state, batch, config):
    if rank == 1 and state.step == 7:
        batch[0][0, 0, 0, 0] = float("nan")
    try:
        return update(state, batch, config)
    finally:
        spoiled.states.append([p.detach().clone() for p in state.denoiser.model.parameters()])
spoiled.states, training.train_step = [], spoiled
try:
    train(dataclasses.replace(config, out=f"{folder}/spoiled", log_every=2), progress=False)
except FloatingPointError as error:
    assert "at step 7, with learning rate" in str(error), error
    assert len(spoiled.states) == 8 and all(torch.equal(a, b) for a, b in zip(*spoiled.states[-2:]))
    assert not all(torch.equal(a, b) for a, b in zip(*spoiled.states[-3:-1]))
else:
    raise AssertionError("nobody noticed the NaN")
"""


def weights(folder, name, rank, step):
    return load_file(folder / f"{name}-{rank}-{step}.safetensors")


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo and torchrun")
def test_two_processes_give_the_result_of_one(tmp_path):
    pictures, g = tmp_path / "pictures", np.random.default_rng(0)
    for i in range(20):
        (pictures / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 255, (8, 8), np.uint8)).save(pictures / "ab"[i % 2] / f"{i}.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    options = {**OPTIONS, "data": str(pictures), "out": str(tmp_path / "two")}
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "script.py",
         str(tmp_path), json.dumps(options)], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stderr.count("\n") == 0, launched.stderr

    one = train(TrainConfig(**{**options, "out": str(tmp_path / "one"), "accumulate": 1}), progress=False)
    assert sorted(os.listdir(tmp_path / "two" / "checkpoints")) == ["step-00000006", "step-00000012"]
    assert json.loads((tmp_path / "streamed" / "data.json").read_text())["in_memory"] is False
    assert sorted(os.listdir(tmp_path / "unreadable" / "checkpoints")) == ["step-00000006", "step-00000008"]
    assert os.listdir(tmp_path / "spoiled" / "checkpoints") == ["step-00000006"]  # what was good is kept
    for step in (6, 12):
        for name in ("raw", "average"):
            first, second = (weights(tmp_path, name, rank, step) for rank in (0, 1))
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    for file in ("model.safetensors", "training.safetensors"):
        mine, theirs = (load_file(checkpoints(run)[0] / file) for run in (one.folder, tmp_path / "two"))
        for k, expected in mine.items():
            near = 1e-3 * expected.abs().max().item() if k.startswith("exp_avg") else 2e-5  # those are far smaller
            torch.testing.assert_close(theirs[k], expected, rtol=1e-3, atol=near, msg=lambda m, k=k: f"{k}: {m}")
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == [3, 4, 6, 9, 12]  # and one where it was stopped
    alike = {row["step"]: row for row in lines}
    for alone in one.metrics:  # the loss of the whole batch, not of one rank's half
        row = alike[alone["step"]]
        assert abs(row["loss"] - alone["loss"]) < 1e-4 or row["step"] == 6  # a mean over other updates
        assert ("validation_loss" in row) == ("validation_loss" in alone) == (row["step"] % 6 == 0)
        assert abs(row.get("validation_loss", 0) - alone.get("validation_loss", 0)) < 1e-3


TORCHRUN = "torch.distributed.run --nproc_per_node"
NODES = "--nnodes 2 --master_addr 127.0.0.1 --master_port {port} --node_rank"
LAUNCHERS = {"two machines": [f"{TORCHRUN} 1 {NODES} {n}" for n in (0, 1)],
             "accelerate": ["accelerate.commands.launch --cpu --num_processes 1"]}  # it starts no more on a CPU


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo and torchrun")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_program_under_the_launchers_of_chapter_11(tmp_path, launcher):
    args = ("-m ddpm_course train --device cpu --out run --base-channels 8 --groups 4 --num-timesteps 20 "
            "--batch-size 4 --steps 4 --validation 4 --samples 2 --sample-steps 2 --log-every 2").split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[sys.executable, "-m", *c.format(port=port).split(), *args] for c in LAUNCHERS[launcher]]
    started = [subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}) for command in commands]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    assert (tmp_path / "run" / "samples.png").stat().st_size > 0
    about = json.loads((tmp_path / "run" / "checkpoints" / "step-00000004" / "training.json").read_text())
    assert about["environment"]["processes"] == (1 if launcher == "accelerate" else 2)


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo and torchrun")
def test_a_launcher_that_is_told_to_stop_leaves_a_checkpoint(tmp_path):
    args = (f"{TORCHRUN} 2 --standalone -m ddpm_course train --device cpu --out run --base-channels 8 --groups 4 "
            "--num-timesteps 20 --batch-size 4 --steps 100000 --save-every 100000 --validation 4 --sample-steps 2 "
            "--log-every 100").split()
    started = subprocess.Popen([sys.executable, "-m", *args], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere between two lines
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=120)
    assert started.returncode != 0 and "keeps what was trained" in said[0], said
    saved = checkpoints(tmp_path / "run")
    assert len(saved) == 1 and int(saved[0].name[5:]) % 100 and is_whole(saved[0])
    assert json.loads((saved[0] / "training.json").read_text())["environment"]["processes"] == 2
    assert not (tmp_path / "run" / "previews").exists()  # there was no time for more


def test_a_batch_that_cannot_be_shared_evenly_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 8, expected a multiple of 1 .processes. times 3"):
        train(TrainConfig(**{**OPTIONS, "accumulate": 3, "out": str(tmp_path / "run")}), progress=False)
    assert not (tmp_path / "run").exists()
