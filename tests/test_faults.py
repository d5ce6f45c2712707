"""What goes wrong in long runs: killed processes, full disks, damaged files. Nothing is lost or silently wrong."""
import errno
import importlib.util
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import time
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image

from ddpm_course import training as training_module
from ddpm_course.app import checkpoints as checkpoints_module
from ddpm_course.app import processes as processes_module
from ddpm_course.app import run as run_module
from ddpm_course.app.checkpoints import TRAINING, best_checkpoint
from ddpm_course.app.cli import main
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import read_metrics, train
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.lib.storage import MANIFEST, read_json, read_verified, sha256, tensors_from_bytes, write_json
from ddpm_course.unet import UNet

torch.set_num_threads(1)  # their number may change the last bits, and the processes of the loop below have one

TINY = {"image_size": 8, "base_channels": 8, "groups": 4, "channel_mults": (1,), "patch_size": 1, "num_timesteps": 10,
        "batch_size": 4, "warmup": 2, "log_every": 1, "save_every": 1, "previews": 0, "validation": 4, "holdout": 0.25,
        "samples": 1, "sample_steps": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, g = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(g.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{i}.png")
    return folder


def config(pictures, out, **change):
    return TrainConfig(**{**TINY, "data": str(pictures), "out": str(out), **change})


def everything(run):
    "All tensors of the newest checkpoint: raw weights, averaged weights, the optimizer's memory."
    folder = checkpoints(run)[0]
    return {f"{name} {key}": tensor for name in TRAINING[:2]
            for key, tensor in tensors_from_bytes(read_verified(folder, name), name).items()}


def assert_same(run, whole):
    a, b = everything(run), everything(whole)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)
    assert [p.name for p in checkpoints(run)] == [p.name for p in checkpoints(whole)]


def go(options):
    "What a process of the loop below does: begin the run, or go on with it."
    torch.set_num_threads(1)
    begun, steps = os.path.exists(os.path.join(options["out"], MANIFEST)), run_module.training_steps

    def noted(state, data, config):  # where it goes on, and where it should
        with open(f"{options['out']}.starts", "a") as file:
            newest = next((int(p.name[5:]) for p in checkpoints(options["out"])), 0)
            file.write(f"{state.step} {newest}\n")
        yield from steps(state, data, config)
    with mock.patch.object(run_module, "training_steps", noted):
        train(TrainConfig(**options, resume=begun), progress=False)


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs quick new processes")
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(pictures, tmp_path):
    context, chance = multiprocessing.get_context("forkserver"), random.Random(0)
    context.set_forkserver_preload(["ddpm_course.app.run", "torch._dynamo"])  # imported once; each process is a fork
    options = {**TINY, "data": str(pictures), "out": str(tmp_path / "killed"), "steps": 100}
    metrics, kills = tmp_path / "killed" / "metrics.jsonl", 0

    def lines():
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    while kills < 20:
        process, before, wanted = context.Process(target=go, args=(options,)), lines(), chance.randint(0, 3)
        process.start()
        deadline = time.monotonic() + 60
        while wanted and lines() < before + wanted and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.06 if wanted else 0.4))  # anywhere in a step, a checkpoint, or the start
        assert process.is_alive(), "it ended before it was killed"
        process.kill()
        process.join()
        kills += 1
    process = context.Process(target=go, args=(options,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    whole = train(config(pictures, tmp_path / "whole", steps=100), progress=False)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    kept = [(r["step"], r["loss"], r["validation_loss"]) for r in read_metrics(tmp_path / "killed")]
    assert kept == [(r["step"], r["loss"], r["validation_loss"]) for r in whole.metrics]
    assert best_checkpoint(tmp_path / "killed").name == best_checkpoint(tmp_path / "whole").name
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))
    starts = [tuple(map(int, line.split())) for line in (tmp_path / "killed.starts").read_text().splitlines()]
    assert all(step == newest for step, newest in starts)  # never from 0 again
    assert len({step for step, _ in starts}) > 5


class Faults:
    "Counts every write, fsync and replace, and lets the one with number `fatal` fail."
    def __init__(self, fatal, error):
        self.fatal, self.error, self.count = fatal, error, 0
        self.real = {"fsync": os.fsync, "replace": os.replace, "open": open}

    def strike(self, *names):
        self.count += 1
        if self.count - 1 == self.fatal:
            raise OSError(self.error, os.strerror(self.error), *names)

    def fsync(self, *args):
        self.strike()
        return self.real["fsync"](*args)

    def replace(self, old, new):
        self.strike(str(old), None, str(new))  # as Python names them; in a write or a flush it names nothing
        return self.real["replace"](old, new)

    def open(self, file, mode="r", *args, **options):
        opened, faults = self.real["open"](file, mode, *args, **options), self
        if "r" in mode:
            return opened

        class Writer:
            def __getattr__(self, name):
                return getattr(opened, name)

            def __enter__(self):
                return self

            def __exit__(self, *args):
                opened.close()

            def write(self, content):
                try:
                    faults.strike()
                except OSError:
                    opened.write(content[:len(content) // 2])  # a disk that is full took a part of it
                    raise
                return opened.write(content)
        return Writer()

    def __enter__(self):
        self.patches = [mock.patch("os.fsync", self.fsync), mock.patch("os.replace", self.replace),
                        mock.patch("builtins.open", self.open), mock.patch("io.open", self.open)]  # pathlib's
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *args):
        for patch in self.patches:
            patch.stop()


class Small(UNet):
    "Stands for the network where the disk is meant: two tensors to write instead of ninety."
    def __init__(self, config):
        torch.nn.Module.__init__(self)
        self.config, self.scale = config, torch.nn.Conv2d(config.image_channels, config.image_channels, 1)

    def forward(self, x, t, y=None):
        return self.scale(x)


def plot_quickly(steps, losses, path):
    run_module.viz.save_grid(torch.zeros(1, 1, 4, 4), path)


@pytest.fixture
def quick(monkeypatch):
    "Runs of a few hundredths of a second that write all that a run writes."
    real = run_module.viz.plot_loss
    monkeypatch.setattr(run_module, "UNet", Small)
    monkeypatch.setattr(run_module.viz, "plot_loss", plot_quickly)
    return real


PICTURES = ("loss.png", "samples.png", "denoising.gif")


def assert_nothing_is_half_written(run):
    there = checkpoints(run)
    for folder in there:
        assert all(read_verified(folder, file) for file in TRAINING)
    for path in [*run.glob("*.png"), *run.glob("*.gif"), *run.glob("previews/*")]:
        with Image.open(path) as picture:
            picture.load()
    return [folder.name for folder in there]


def assert_ends_alike(run, whole):
    for extra in checkpoints(run)[len(checkpoints(whole)):]:  # where the disk refused to let an old one go
        shutil.rmtree(extra)
    assert_same(run, whole)
    assert all((run / name).read_bytes() == (whole / name).read_bytes() for name in PICTURES)
    kept, all_of_them = ({(r["step"], r["loss"]) for r in read_metrics(folder)} for folder in (run, whole))
    assert kept <= all_of_them and len(kept) >= len(all_of_them) - 1  # but for the line that the disk refused
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]


def ended_with(call, error, told):
    "What a run said that met `error` once: the `OSError` it raised, or the warning about what it went on without."
    try:
        call()
        said = str(told[0].message) if told else "nothing is said"
        assert len(told) <= 1 and (os.strerror(error) in said or not told)
    except OSError as caught:
        said = str(caught)
        assert caught.errno == error and not told
    assert re.search(r": '.*run|nothing is said", said), said  # a file is named
    return said


ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])


@ERRORS
def test_a_disk_that_refuses_at_any_moment(quick, pictures, tmp_path, error):
    options = {**TINY, "data": str(pictures), "steps": 2, "previews": 1}
    with Faults(None, None) as faults:
        train(TrainConfig(**options, out=str(tmp_path / "whole")), progress=False)
    assert faults.count > 55  # 3 files, 4 pictures, 2 lines, 2 checkpoints of 5 files: each written, flushed, renamed
    with Faults(None, None) as plots:
        quick([1, 2], [0.5, 0.4], tmp_path / "real.png")
        plot_quickly([1, 2], [0.5, 0.4], tmp_path / "quick.png")
    assert plots.count in (2 * 3, 2 * 4)  # what stands for a plot writes as the plot does; Windows flushes no folders
    ends = []
    for fatal in range(faults.count):
        out = tmp_path / "run"
        with Faults(fatal, error), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            said = ended_with(lambda: train(TrainConfig(**options, out=str(out)), progress=False), error, told)
        ends.append(said.partition(":")[0])
        there = assert_nothing_is_half_written(out)
        what, could_not, kept = said.partition("could not be written")
        if could_not:  # the message names what is kept; the new one may be there, but its name was not flushed
            assert [name for name in there if name not in what] == [name for name in there if name in kept]
            assert ("none" in kept) == ("step-00000001" in what)
        go({**options, "out": str(out)})  # once the disk is well again
        assert_ends_alike(out, tmp_path / "whole")
        shutil.rmtree(out)
    assert ends.count("nothing is said") == 1  # who holds the lock is noted for people only
    optional = {f"{what} failed, and the run goes on without" for what in (
        "a line of metrics.jsonl", "a preview", "samples.png", "denoising.gif", "loss.png")}
    assert optional <= set(ends)


@ERRORS
def test_a_disk_that_refuses_a_run_that_is_resumed(quick, pictures, tmp_path, error, capsys):
    options = {**TINY, "data": str(pictures), "steps": 3, "validation": 0, "keep": 3}
    train(TrainConfig(**options, out=str(tmp_path / "begun")), progress=False)
    shutil.rmtree(checkpoints(tmp_path / "begun")[0])  # as if stopped after step 2
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    resume = ["train", "--resume", "--keep", "2", "--out"]  # so that the first one goes when the third is there
    with Faults(None, None) as faults:
        assert main([*resume, str(tmp_path / "whole")]) == 0
    assert [p.name for p in checkpoints(tmp_path / "whole")] == ["step-00000003", "step-00000002"]
    assert faults.count > 30
    for fatal in range(faults.count):
        out = tmp_path / "run"
        shutil.copytree(tmp_path / "begun", out)
        capsys.readouterr()
        with Faults(fatal, error), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            code = main([*resume, str(out)])
        said = capsys.readouterr().err + "".join(f"{w.message}\n" for w in told)
        assert code == (0 if told or not said else 1)
        assert not said or said.count("\n") == 1 and os.strerror(error) in said and str(out) in said, said
        assert len(assert_nothing_is_half_written(out)) >= 2
        assert main([*resume, str(out)]) == 0
        assert_ends_alike(out, tmp_path / "whole")
        shutil.rmtree(out)


@ERRORS
def test_a_line_of_the_log_that_cannot_be_written_costs_nothing(quick, pictures, tmp_path, error):
    options = {**TINY, "data": str(pictures), "out": str(tmp_path / "run"), "steps": 9, "log_every": 2, "save_every": 8}
    real, refused = run_module.append_line, []

    def refuse(path, line):
        if json.loads(line)["step"] == 6:
            refused.append(line)
            real(path, line[:9])  # a part of it was written
            raise OSError(error, os.strerror(error), str(path))
        real(path, line)
    with (mock.patch.object(run_module, "append_line", refuse),
          pytest.warns(UserWarning, match="a line of metrics.jsonl failed, and the run goes on")):
        assert train(TrainConfig(**options), progress=False).finished
    assert len(refused) == 1 and [row["step"] for row in read_metrics(tmp_path / "run")] == [2, 4, 6, 8, 9]


def test_damaged_files_end_in_an_error_or_in_the_right_weights(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module.viz, "plot_loss", lambda steps, losses, path: None)
    monkeypatch.setattr(run_module, "write_pictures", lambda *args, **options: None)
    for name in ("whole", "begun"):
        train(config(pictures, tmp_path / name, steps=3, keep=3), progress=False)
    shutil.rmtree(checkpoints(tmp_path / "begun")[0])  # as if stopped after step 2
    chance, ends = random.Random(0), []
    for case in range(60):
        shutil.copytree(tmp_path / "begun", tmp_path / "run")
        newest = checkpoints(tmp_path / "run")[0]
        files = [*newest.iterdir(), *(p for p in (tmp_path / "run").iterdir() if p.is_file())]
        victim = chance.choice(sorted(files))
        content = bytearray(victim.read_bytes())
        at = chance.randrange(len(content))
        if case % 2:
            content[at] ^= 1 << chance.randrange(8)
        else:
            del content[at:]
        victim.write_bytes(content)
        with mock.patch("warnings.warn") as warned:
            code = main(["train", "--resume", "--out", str(tmp_path / "run")])
        said = capsys.readouterr().err
        if code == 0:
            assert_same(tmp_path / "run", tmp_path / "whole")
        else:
            assert code == 2 and said.count("\n") == 1 and "Traceback" not in said, (victim, at, said)
        ends.append((code, bool(warned.call_args_list)))
        shutil.rmtree(tmp_path / "run")
    assert {(0, False), (0, True), (2, False)} <= set(ends)  # unharmed; from the checkpoint before; refused


def test_where_a_damaged_run_stands_is_told_as_it_would_be_resumed(pictures, tmp_path, capsys):
    run = tmp_path / "run"
    train(config(pictures, run, steps=3, keep=3), progress=False)
    assert main(["info", str(run)]) == 0
    assert "run          " + f"{run}: finished, 3 of 3 steps saved" in capsys.readouterr().out
    for name in ("training.safetensors", MANIFEST):
        (checkpoints(run)[0] / name).write_bytes(b"{")
        assert main(["info", str(run)]) == 0
        told = capsys.readouterr().out
        assert "not finished, 2 of 3 steps saved" in told and "16 files" not in told and "12 of 8 x 8 pixels" in told
        assert "step-00000003 (damaged), step-00000002, step-00000001" in told and "predicts v" in told
    (run / "data.json").unlink()  # killed before the images were read
    assert main(["info", str(run)]) == 0 and f"images       {pictures}: not read yet" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_back_is_no_reason_to_delete_an_older_one(pictures, tmp_path, monkeypatch):
    real = checkpoints_module.write_model

    def careless(denoiser, folder, **options):  # a disk that says "written" and has not
        real(denoiser, folder, **options)
        if folder.name == "step-00000003":
            (folder / "training.safetensors").write_bytes(b"")
    monkeypatch.setattr(checkpoints_module, "write_model", careless)
    with pytest.raises(ValueError, match="training.safetensors' is damaged"):
        train(config(pictures, tmp_path / "run", steps=4), progress=False)
    assert [p.name[-1] for p in checkpoints(tmp_path / "run")] == ["3", "2", "1"]
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="step-00000003 is passed over"):
        train(config(pictures, tmp_path / "run", steps=4, resume=True), progress=False)
    train(config(pictures, tmp_path / "whole", steps=4), progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_pickle_is_never_opened(pictures, tmp_path):
    train(config(pictures, tmp_path / "run", steps=2), progress=False)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    for folder in checkpoints(tmp_path / "run"):
        content = pickle.dumps(Evil())
        (folder / "training.safetensors").write_bytes(content)
        manifest = read_json(folder / MANIFEST)
        manifest["files"]["training.safetensors"] = sha256(content)  # whoever can write the file can write this too
        write_json(folder / MANIFEST, manifest)
    with (pytest.warns(UserWarning, match="not a valid safetensors file"),
          pytest.raises(ValueError, match="none of the 2")):
        train(config(pictures, tmp_path / "run", steps=2, resume=True), progress=False)
    assert not (tmp_path / "harm").exists()


def test_another_configuration_is_refused_and_the_fields_are_named(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    train(config(pictures, out, steps=2), progress=False)
    before = everything(out)
    for change in (["--warmup", "5", "--lr", "0.5"], ["--seed", "1"], ["--flip"], ["--precision", "bf16"],
                   ["--holdout", "0"]):
        assert main(["train", "--resume", "--out", str(out), *change]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and all(f"{name[2:]} (was " in said for name in change if name.startswith("--"))
    assert main(["train", "--resume", "--out", str(out), "--keep", "5", "--samples", "2", "--accumulate", "2"]) == 0
    assert all(torch.equal(v, everything(out)[k]) for k, v in before.items())


def test_a_run_that_diverges_stops_names_step_and_rate_and_keeps_what_was_good(pictures, tmp_path, monkeypatch, capsys):
    rates = [1e-3, 1e-3, 1e-3, 1e30, 1e30, 1e30]  # after update 3 the weights are absurd
    for module in (training_module, run_module):
        monkeypatch.setattr(module, "learning_rate", lambda c, step: rates[step])
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items() if k != "channel_mults"]
    code = main(["train", *options, "--channel-mults", "1", "--data", str(pictures), "--out", str(tmp_path / "run"),
                 "--steps", "6"])
    said = capsys.readouterr().err
    assert code == 1 and said.count("\n") == 1 and "step 3, with learning rate 1e+30" in said, said
    assert [p.name for p in checkpoints(tmp_path / "run")][0] == "step-00000003"
    assert all(torch.isfinite(v).all() for v in everything(tmp_path / "run").values())


def test_a_nan_without_held_out_images_is_found_at_the_next_line(pictures, tmp_path, monkeypatch):
    real = training_module.diffusion_loss

    def loss(*args, **options):
        value = real(*args, **options)
        loss.calls += 1
        return value * float("nan") if loss.calls == 4 else value
    loss.calls = 0
    monkeypatch.setattr(training_module, "diffusion_loss", loss)
    with pytest.raises(FloatingPointError, match="not finite at step 3, with learning rate 0.00"):
        train(config(pictures, tmp_path / "run", steps=12, validation=0, log_every=5, save_every=3), progress=False)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-00000003"]
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [3]


def test_the_best_checkpoint_is_kept_beside_the_newest(pictures, tmp_path, monkeypatch):
    losses = iter([0.5, 0.2, 0.4, 0.6, 0.3])
    monkeypatch.setattr(run_module, "validation_loss", lambda *args: next(losses))
    run = train(config(pictures, tmp_path / "run", steps=5), progress=False)
    assert [p.name for p in checkpoints(run.folder)] == ["step-00000005", "step-00000004", "step-00000002"]
    assert best_checkpoint(run.folder).name == "step-00000002"
    assert json.loads((best_checkpoint(run.folder) / "training.json").read_text())["validation_loss"] == 0.2


@pytest.mark.filterwarnings("ignore:.log_with=")  # accelerate says it as well
def test_a_tracker_whose_package_is_missing_is_refused_before_anything_is_written(pictures, tmp_path):
    for name in ("tensorboard", "wandb", "trackio"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ValueError, match=f"pip install {name}"):
                train(config(pictures, tmp_path / "run", steps=2, tracker=name), progress=False)
    assert not list(tmp_path.iterdir())


def test_a_tracker_is_given_the_configuration_and_each_line_of_the_metrics(pictures, tmp_path, monkeypatch):
    told, real = [], processes_module.Accelerator

    class Spy(GeneralTracker):
        name, requires_logging_directory, tracker = "spy", False, None

        def store_init_configuration(self, values):
            told.append(values)

        def log(self, values, step=None, **options):
            told.append({"step": step, **values})

        def finish(self):
            told.append("finished")

    def accelerator(log_with=None, **options):
        return real(log_with=log_with and Spy(), **options)
    monkeypatch.setattr(processes_module, "Accelerator", accelerator)
    train(config(pictures, tmp_path / "untold", steps=2), progress=False)
    assert not told
    run = train(config(pictures, tmp_path / "run", steps=2, tracker="wandb"), progress=False)
    assert told[0]["steps"] == 2 and told[0]["lr"] == 1e-3  # numbers as numbers
    assert told[1:] == [*run.metrics, "finished"] and len(run.metrics) == 2


def test_a_tracker_is_told_of_the_end_also_where_it_is_a_bad_one(pictures, tmp_path, monkeypatch):
    finished, real = [], processes_module.Accelerator

    class Spy(GeneralTracker):
        name, requires_logging_directory, tracker = "spy", False, None

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **options):
            pass

        def finish(self):
            finished.append(True)
    monkeypatch.setattr(processes_module, "Accelerator",
                        lambda log_with=None, **options: real(log_with=Spy(), **options))
    monkeypatch.setattr(run_module, "validation_loss", lambda *args: float("nan"))
    with pytest.raises(FloatingPointError):
        train(config(pictures, tmp_path / "run", steps=2, tracker="wandb"), progress=False)
    assert finished == [True]


def test_what_is_changed_on_resuming_stays_changed(pictures, tmp_path):
    run = tmp_path / "run"
    train(config(pictures, run, steps=6, keep=2, save_every=2), progress=False)
    shutil.rmtree(checkpoints(run)[0])
    assert main(["train", "--resume", "--out", str(run), "--keep", "7", "--save-every", "1"]) == 0
    shutil.rmtree(checkpoints(run)[0])
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert [p.name[-1] for p in checkpoints(run)] == ["6", "5", "4"] and read_json(run / MANIFEST)["resume"] is False


def test_a_run_among_its_own_images_is_refused(pictures):
    for out in (pictures, pictures / "run", pictures / "deep" / "run"):
        with pytest.raises(ValueError, match="which exists already|among the images"):
            train(config(pictures, out, steps=2), progress=False)
    assert len(list(pictures.iterdir())) == 16


def test_samples_come_from_the_newest_checkpoint_that_is_whole(pictures, tmp_path, capsys):
    train(config(pictures, tmp_path / "run", steps=3), progress=False)
    (checkpoints(tmp_path / "run")[0] / "model.safetensors").write_bytes(b"")
    args = ["--n", "1", "--steps", "1", "--device", "cpu", "--out"]
    assert main(["sample", str(tmp_path / "run"), *args, str(tmp_path / "a.png")]) == 0
    assert "step-00000003 is damaged; drawing from step-00000002" in capsys.readouterr().err
    assert main(["sample", str(checkpoints(tmp_path / "run")[1]), *args, str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_compile_is_asked_for_the_network_itself_and_leaves_no_trace_in_the_files(pictures, tmp_path):
    with mock.patch.object(torch.nn.Module, "compile", autospec=True) as compiled:
        train(config(pictures, tmp_path / "plain", steps=2), progress=False)
        assert not compiled.called
        run = train(config(pictures, tmp_path / "run", steps=2, compile=True), progress=False)
    assert [type(call.args[0]) for call in compiled.call_args_list] == [UNet]
    assert_same(run.folder, tmp_path / "plain")


def test_tensorboard_where_it_is_installed(pictures, tmp_path):
    pytest.importorskip("tensorboard")
    train(config(pictures, tmp_path / "run", steps=2, tracker="tensorboard"), progress=False)
    assert list((tmp_path / "run").rglob("events.out.tfevents*")) and len(read_metrics(tmp_path / "run")) == 2
