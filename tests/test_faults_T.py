"""Faults that users of such tools report, in runs: the number is that of the item in the list of reports."""
import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_course.app import processes, run as run_module
from ddpm_course.app.checkpoints import best_checkpoint, is_whole
from ddpm_course.app.cli import main
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import new_state, read_metrics, train
from ddpm_course.data import ImageDataset, load_digits
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.hub import load_pretrained, save_pretrained
from ddpm_course.lib.storage import read_json, read_verified, tensors_from_bytes, write_json
from ddpm_course.training import train_step

torch.set_num_threads(1)  # their number may change the last bits

TINY = {"image_size": 8, "base_channels": 8, "groups": 4, "channel_mults": (1,), "patch_size": 1, "num_timesteps": 20,
        "batch_size": 4, "steps": 4, "warmup": 2, "log_every": 1, "save_every": 2, "previews": 0, "validation": 4,
        "holdout": 0.25, "samples": 2, "sample_steps": 2, "device": "cpu"}
FIXTURE = Path(__file__).parent / "fixtures" / "old"


def make_pictures(folder, n=16, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(g.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "pictures")


def config(pictures, out, **change):
    return TrainConfig(**{**TINY, "data": str(pictures), "out": str(out), **change})


def tensors(run):
    "All tensors of the newest checkpoint."
    folder = checkpoints(run)[0]
    return {f"{name} {key}": tensor for name in ("model.safetensors", "training.safetensors")
            for key, tensor in tensors_from_bytes(read_verified(folder, name), name).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def cut(run):
    "As if the run had been stopped before its last checkpoint."
    shutil.rmtree(checkpoints(run)[0])


# 1: what a person names need not be UTF-8

@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="its file systems want UTF-8")
def test_1_names_that_are_not_utf8(tmp_path, capsys):
    images, out = (str(tmp_path / os.fsdecode(name)) for name in (b"caf\xe9", b"r\xfcn"))
    for kind in ("a", os.fsdecode(b"\xff")):
        make_pictures(Path(images) / kind, 8)
    train(config(images, out), progress=False)
    cut(out)
    assert main(["train", "--resume", "--out", out]) == 0
    assert main(["info", out]) == 0
    assert main(["sample", out, "--n", "1", "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "x.png")]) == 0
    assert read_json(os.path.join(out, "config.json"))["data"] == images


# 2: the images decide, not how they are reached

def test_2_the_same_images_by_another_path(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    train(config("pictures", "run", memory=0, workers=0), progress=False)
    whole = tensors(out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for data in ("pictures/", "./pictures", str(pictures), f"{tmp_path}/elsewhere/../pictures"):
        cut(out)
        assert train(config(data, "run", memory=0, workers=0, resume=True), progress=False).finished
        assert same(tensors(out), whole)
    monkeypatch.chdir(elsewhere)  # from another folder, and by its name alone
    cut(out)
    assert main(["train", "--resume", "--out", "../run"]) == 0 and same(tensors(out), whole)


def test_2_images_that_have_moved_and_others_in_their_place(pictures, tmp_path):
    train(config(pictures, tmp_path / "run", memory=0, workers=0), progress=False)
    pictures.rename(tmp_path / "moved")
    resume = ["train", "--resume", "--out", str(tmp_path / "run"), "--data"]
    assert main([*resume, str(tmp_path / "moved")]) == 0
    for i in (3, 4):
        (tmp_path / "moved" / f"{i:02d}.png").unlink()
    make_pictures(pictures, 14, seed=5)
    with pytest.raises(ValueError, match="have changed since the run was begun"):
        train(config(pictures, tmp_path / "run", memory=0, workers=0, resume=True), progress=False)


def test_2_one_image_that_has_changed_is_found_also_where_it_is_held_out(tmp_path):
    folder = make_pictures(tmp_path / "few", n=4)
    train(config(folder, tmp_path / "run"), progress=False)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        Image.new("L", (8, 8), 77).save(path)
        with pytest.raises(ValueError, match="have changed since the run was begun"):
            train(config(folder, tmp_path / "run", resume=True), progress=False)
        path.write_bytes(whole)


def test_2_other_images_are_found_also_where_less_memory_is_allowed(pictures, tmp_path):
    train(config(pictures, tmp_path / "run"), progress=False)
    assert train(config(pictures, tmp_path / "run", resume=True, memory=0), progress=False).finished
    train(config(pictures, tmp_path / "other"), progress=False)
    make_pictures(pictures, seed=1)
    with pytest.raises(ValueError, match="have changed since the run was begun"):
        train(config(pictures, tmp_path / "other", resume=True, memory=0), progress=False)


def test_2_the_model_to_start_from_is_found_from_any_folder(pictures, tmp_path, monkeypatch):
    train(config(pictures, tmp_path / "first"), progress=False)
    monkeypatch.chdir(tmp_path)
    run = train(config(pictures, "run", init="first"), progress=False)
    shutil.rmtree(run.folder / "checkpoints")  # as where it was stopped before there was one
    monkeypatch.chdir(pictures)
    assert main(["train", "--resume", "--out", "../run"]) == 0


# 3: a closed terminal and a batch system's warning

@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGTERM", "SIGINT"])
def test_3_signals_leave_a_checkpoint(name, pictures, tmp_path, monkeypatch):
    number, real = getattr(signal, name), run_module.training_steps
    if signal.getsignal(number) == signal.SIG_IGN:  # so it is under nohup, and the program leaves it so
        signal.signal(number, signal.SIG_DFL)

    def interrupted(state, data, c):
        for step, loss in real(state, data, c):
            if step == 3:
                signal.raise_signal(number)
                if number not in (signal.SIGTERM, signal.SIGINT):
                    signal.raise_signal(number)  # a terminal that is closed says so more than once
            yield step, loss
    monkeypatch.setattr(run_module, "training_steps", interrupted)
    before = [signal.getsignal(n) for n in processes.SIGNALS]
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items() if k != "channel_mults"]
    code = main(["train", *options, "--channel-mults", "1", "--data", str(pictures), "--out", str(tmp_path / "run")])
    assert code == 128 + number and checkpoints(tmp_path / "run")[0].name == "step-00000003"
    assert [signal.getsignal(n) for n in processes.SIGNALS] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_3_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.interruptible() as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# 4: two runs in one folder

HOLD = """
import sys, time
from pathlib import Path
from ddpm_course.app.processes import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_4_a_run_folder_belongs_to_one_run_as_long_as_its_process_lives(pictures, tmp_path):
    out = tmp_path / "deep" / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"another run is writing .process {other.pid} on "):
            train(config(pictures, out), progress=False)
    finally:
        other.kill()
        other.wait()
    assert train(config(pictures, out), progress=False).finished
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_4_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        train(config("nowhere", tmp_path / "deep" / "run"), progress=False)
    assert not list(tmp_path.iterdir())


# 5: a checkpoint that cannot be read

@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_5_an_older_checkpoint_serves_where_the_newest_cannot_be_read(number, pictures, tmp_path, capsys):
    out = tmp_path / "run"
    train(config(pictures, out), progress=False)
    whole, newest, real = tensors(out), checkpoints(out)[0], Path.read_bytes

    def read(path):
        if newest in path.parents:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)
    sample = ["--n", "1", "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "x.png")]
    with mock.patch.object(Path, "read_bytes", read):
        assert not is_whole(newest) and best_checkpoint(out).name == "step-00000002"
        assert main(["info", str(out)]) == 0 and "2 of 4 steps saved" in capsys.readouterr().out
        assert main(["sample", str(out), *sample]) == 0 and "step-00000002" in capsys.readouterr().err
    with (pytest.warns(UserWarning, match=f"step-00000004 is passed over: .*{os.strerror(number)}"),
          mock.patch.object(Path, "read_bytes", lambda path: read(path) if not newest_is_new(path) else real(path))):
        newest_is_new = lambda path, before=newest.stat().st_mtime_ns: newest.stat().st_mtime_ns != before  # noqa: E731
        train(config(pictures, out, resume=True), progress=False)
    assert same(tensors(out), whole)


def test_5_a_checkpoint_that_can_be_neither_read_nor_removed_stops_no_run(pictures, tmp_path, monkeypatch):
    run = train(config(pictures, tmp_path / "run"), progress=False)
    newest, left = checkpoints(run.folder)[0], run.folder / "checkpoints" / ".step-00000004.gone.tmp"
    (newest / "training.json").write_text("of somebody else")
    real_rmdir, real_unlink = os.rmdir, os.unlink

    def refuse(real, path, *more, **options):
        if left.exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *more, **options)
    with mock.patch("os.rmdir", functools.partial(refuse, real_rmdir)), \
            mock.patch("os.unlink", functools.partial(refuse, real_unlink)):
        with pytest.warns(UserWarning, match=f"{newest.name} is passed over"):
            assert train(config(pictures, tmp_path / "run", resume=True), progress=False).finished
        assert left.exists()  # and in its way is nothing, also the next time
        assert train(config(pictures, tmp_path / "run", resume=True, steps=6), progress=False).finished
    assert checkpoints(run.folder)[0].name == "step-00000006"



# 6: nothing optional may cost what was trained

@pytest.mark.parametrize("broken", ["plot_loss", "save_gif", "save_grid"])
def test_6_pictures_that_fail(broken, pictures, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise ImportError("no such backend")
    monkeypatch.setattr(run_module.viz, broken, fail)
    with pytest.warns(UserWarning, match="failed, and the run goes on without: ImportError: no such backend"):
        run = train(config(pictures, tmp_path / "run", previews=1), progress=False)
    assert run.finished and checkpoints(run.folder)[0].name == "step-00000004"
    written = {p.name for p in run.folder.iterdir()} & {"loss.png", "denoising.gif", "samples.png"}
    missing = {"plot_loss": "loss.png", "save_gif": "denoising.gif", "save_grid": "samples.png"}[broken]
    assert written == {"loss.png", "denoising.gif", "samples.png"} - {missing}


def test_6_a_tracker_that_fails(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.Accelerator, "log", mock.Mock(side_effect=RuntimeError("the network is down")))
    with pytest.warns(UserWarning, match="the tracker none failed"):
        assert train(config(pictures, tmp_path / "run"), progress=False).finished


def test_6_a_tracker_that_does_not_start(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.Accelerator, "init_trackers", mock.Mock(side_effect=RuntimeError("not logged in")))
    monkeypatch.setattr(run_module, "make_accelerator", lambda c: processes.Accelerator(cpu=True))
    with pytest.warns(UserWarning, match="the tracker wandb failed, and the run goes on without: .* not logged in"):
        assert train(config(pictures, tmp_path / "run", tracker="wandb"), progress=False).finished


# 8: more steps, and other weights to start from

@pytest.mark.parametrize("decay, exact", [(0.0, True), (0.5, False)])
def test_8_a_run_goes_on_beyond_its_steps(decay, exact, pictures, tmp_path, capsys):
    long = train(config(pictures, tmp_path / "long", steps=8, decay=decay), progress=False)
    train(config(pictures, tmp_path / "run", decay=decay), progress=False)
    assert main(["train", "--resume", "--steps", "8", "--out", str(tmp_path / "run")]) == 0
    assert "planned for 4 updates until update 4" in capsys.readouterr().out
    assert same(tensors(tmp_path / "run"), tensors(long.folder)) == exact
    rates = [[row["lr"] for row in read_metrics(tmp_path / name)] for name in ("run", "long")]
    assert rates[0][4:] == rates[1][4:] and (rates[0] == rates[1]) == exact  # of the new length from there on
    noted = json.loads(read_verified(checkpoints(tmp_path / "run")[0], "training.json"))
    assert noted["continued"] == [{"step": 4, "planned": 4}] and noted["config"]["steps"] == 8
    with pytest.raises(ValueError, match="steps is 5, expected 8 or more: step-00000008"):
        train(config(pictures, tmp_path / "run", decay=decay, steps=5, resume=True), progress=False)


def test_8_a_run_starts_from_the_weights_of_a_model(pictures, tmp_path):
    first = train(config(pictures, tmp_path / "first"), progress=False)
    save_pretrained(first.denoiser, tmp_path / "model")
    start = first.denoiser.model.state_dict()
    for init in (tmp_path / "model", first.folder):  # a run's folder stands for its newest checkpoint
        state = new_state(config(pictures, "-"))
        run_module.start_from(state, str(init))
        for model in (state.denoiser.model, state.ema.module):
            assert same(model.state_dict(), start)
    frozen = dict(init=str(tmp_path / "model"), lr=1e-12, steps=2)
    assert torch.allclose(train(config(pictures, tmp_path / "second", **frozen), progress=False).denoiser.model.conv_in
                          .weight, start["conv_in.weight"], atol=1e-9)
    shutil.rmtree(tmp_path / "model")  # what goes on needs it no more
    cut(tmp_path / "first")
    cut_run = config(pictures, tmp_path / "second", **frozen, resume=True)
    assert train(cut_run, progress=False).finished
    for init, words in (("digits", "init is 'digits', expected a model with the network that is to be trained"),
                        ("nowhere", "init is 'nowhere'")):
        with pytest.raises(ValueError, match=words):
            train(config(pictures, tmp_path / "third", init=init), progress=False)
    with pytest.raises(ValueError, match="its prediction is 'v', expected one of .'eps',."):
        train(config(pictures, tmp_path / "third", init=str(tmp_path / "second"), prediction="eps"), progress=False)
    with pytest.raises(ValueError, match="init .was None, now 'digits'"):
        train(config(pictures, tmp_path / "first", init="digits", resume=True), progress=False)
    assert not (tmp_path / "third").exists()


# 14: numbers of NumPy, paths; what is no number is refused by name

def test_14_plain_values_for_numpy_numbers_and_paths(tmp_path):
    c = TrainConfig(steps=np.int64(5), lr=np.float32(0.5), seed=torch.tensor(3), out=tmp_path / "run",
                    channel_mults=np.array([1, 2]), data=Path("pics"), memory=np.int32(2))
    assert json.loads(json.dumps(dataclasses.asdict(c)))["lr"] == 0.5
    assert (c.steps, c.seed, c.out, c.channel_mults) == (5, 3, str(tmp_path / "run"), (1, 2))
    assert c.data == os.path.join(".", "pics")
    assert {type(v) for v in (c.steps, c.seed, *c.channel_mults)} == {int} and type(c.out) is str


# 15: what is left out

def test_15_without_validation_every_image_is_trained_on(pictures, tmp_path):
    run = train(config(pictures, tmp_path / "run", validation=0), progress=False)
    about = read_json(run.folder / "data.json")
    assert (about["images"], about["held_out"]) == (16, 0)


def test_15_files_that_are_left_out_are_told_before_the_first_update(pictures, tmp_path, capsys, monkeypatch):
    (pictures / "00.png").write_bytes(b"no picture")
    real, told = run_module.training_steps, []

    def watched(*args):
        told.append(capsys.readouterr().out)
        return real(*args)
    monkeypatch.setattr(run_module, "training_steps", watched)
    train(config(pictures, tmp_path / "run"), progress=False)
    assert told[0].startswith("files left out: 1; ") and "data.json" in told[0]
    assert [s["file"].endswith("00.png") for s in read_json(tmp_path / "run" / "data.json")["skipped"]] == [True]


def test_15_a_path_is_a_folder_also_where_a_data_set_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_pictures(Path("digits"), n=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train(config(tmp_path, "run", data=Path("./digits"), validation=0), progress=False)
    assert read_json(run.folder / "data.json")["images"] == 5


# 16: what may be published holds no private paths

def test_16_checkpoints_hold_no_paths(pictures, tmp_path):
    train(config(pictures, tmp_path / "first"), progress=False)
    run = train(config(pictures, tmp_path / "run", init=str(tmp_path / "first")), progress=False)
    for path in checkpoints(run.folder)[0].iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert read_json(run.folder / "config.json")["init"] == str(tmp_path / "first")
    cut(run.folder)
    assert main(["train", "--resume", "--out", str(run.folder)]) == 0


def test_16_a_tracker_is_given_no_paths(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.Accelerator, "init_trackers", told := mock.Mock())
    monkeypatch.setattr(run_module, "make_accelerator", lambda c: processes.Accelerator(cpu=True))
    train(config(pictures, tmp_path / "run\udce9", tracker="wandb"), progress=False)
    (name, settings), _ = told.call_args
    assert (name, settings["data"], settings["out"]) == ("run\\udce9", "pictures", "run\\udce9")
    assert not [value for value in settings.values() if str(tmp_path) in str(value)]


# 17: scripts without a main guard; no stderr

SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("spawn")
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import train
run = train(TrainConfig(**{options}), progress=True)
print("trained", run.step)
"""


@pytest.mark.parametrize("first_line", ["", "# no word of __name__ but this one"])
def test_17_a_script_without_a_main_guard(first_line, pictures, tmp_path):
    options = {**TINY, "data": str(pictures), "out": str(tmp_path / "run"), "memory": 0, "workers": 1}
    (tmp_path / "script.py").write_text(first_line + SCRIPT.replace("{options}", repr(options)))
    told = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert told.returncode == 0 and "trained 4" in told.stdout, told.stderr
    assert "script.py has no `if __name__ == \"__main__\":`" in told.stdout


def test_17_no_stderr_and_no_stdout(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    (pictures / "00.png").write_bytes(b"no picture")  # so that there is something to say
    assert train(config(pictures, tmp_path / "run"), progress=True).finished


# 18: memory, trackers, random state

def test_18_the_steps_towards_the_samples_are_not_kept(pictures, tmp_path, monkeypatch):
    kept, real = [], run_module.viz.save_gif
    monkeypatch.setattr(run_module.viz, "save_gif", lambda frames, *rest: kept.extend(frames) or real(frames, *rest))
    train(config(pictures, tmp_path / "run", samples=20, sample_steps=3), progress=False)
    assert len(kept) == 4 and {(len(f), f.dtype, f.untyped_storage().nbytes()) for f in kept} == {
        (16, torch.uint8, 16 * 64)}


def test_18_to_make_a_network_touches_no_random_state_of_graphics_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", mock.Mock(side_effect=AssertionError("seeded")))
    before = torch.get_rng_state()
    new_state(config("digits", "-"), 10)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(AssertionError, match="seeded"):
        torch.manual_seed(0)  # it would have been seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_18_the_random_state_of_the_caller_stays_on_a_graphics_card_too():
    c = config("digits", "-", image_size=28, patch_size=2, dropout=0.5, device="cuda")
    before = torch.cuda.get_rng_state()
    train_step(new_state(c, 10), load_digits().batch(torch.arange(4)), c)
    assert torch.equal(before, torch.cuda.get_rng_state())


# The user's own data and network

class Noise(torch.utils.data.Dataset):
    "Eight floating point images of two classes, as a user writes such a set."
    classes = ("dark", "light")

    def __init__(self, n=8, scale=1.0):
        self.images = scale * (2 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], i % 2


class Net(torch.nn.Module):
    "A network of the user's own, with buffers and a part that is not trained."
    def __init__(self, width=4):
        super().__init__()
        self.labels = torch.nn.Embedding(3, 1)  # two, and "no label"
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.BatchNorm2d(width),
                                          torch.nn.SiLU(), torch.nn.Conv2d(width, 1, 3, padding=1))
        self.fixed = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x, t, y):
        assert y is None or y.dtype == torch.int64
        return self.layers(self.fixed * x) + (0 if y is None else self.labels(y)[:, :, None, None])


class Other(Net):
    "Another network."


def net(kind=Net):
    torch.manual_seed(0)
    return kind()


def test_own_data_and_network_train_resume_and_say_what_is_missing(tmp_path):
    c = config("digits", tmp_path / "run")
    whole = train(dataclasses.replace(c, out=str(tmp_path / "whole")), data=Noise(), model=net(), progress=False)
    run = train(c, data=Noise(), model=net(), progress=False)
    about = read_json(run.folder / "data.json")
    assert (about["images"], about["held_out"], about["classes"]) == (6, 2, ["dark", "light"])
    cut(run.folder)
    resume = dataclasses.replace(c, resume=True)
    assert train(resume, data=Noise(), model=net(), progress=False).finished
    assert same(tensors(run.folder), tensors(whole.folder))
    assert any("running_mean" in name for name in tensors(run.folder))
    for given, words in (({"model": net()}, r"data is None, expected the data set .* train\(..., data=...\)"),
                         ({"data": Noise()}, r"'Net', and the network to train is 'UNet'; .* model=...\) with a Net"),
                         ({"data": Noise(), "model": net(Other)}, "the network to train is 'Other'"),
                         ({"data": Noise(16), "model": net()}, "have changed since the run was begun .6 then, 12 now")):
        with pytest.raises(ValueError, match=words):
            train(resume, **given, progress=False)
    with pytest.raises(ValueError, match="weights of a network of one's own, Net"):
        load_pretrained(run.folder)


def test_own_data_alone_and_as_an_image_dataset(tmp_path):
    run = train(config("digits", tmp_path / "run"), data=Noise(), progress=False)
    assert run.denoiser.classes == ["dark", "light"] and load_pretrained(run.folder).model.config.num_classes == 2
    pixels = ImageDataset(torch.zeros(8, 1, 8, 8, dtype=torch.uint8))
    assert train(config("digits", tmp_path / "pixels"), data=pixels, progress=False).finished
    assert read_json(tmp_path / "pixels" / "config.json")["data"] == "ImageDataset"


@pytest.mark.parametrize("data, words", [
    (Noise(scale=255.0), "image . of the data set has values from -2.* expected -1 to 1"),
    ([(torch.zeros(3, 8, 8), 0)] * 8, r"image . of the data set is torch.float32 \(3, 8, 8\), expected .* \(1, 8, 8\)"),
    ([(torch.zeros(1, 8, 8, dtype=torch.uint8), 0)] * 8, "image . of the data set is torch.uint8"),
    ([np.zeros((8, 8))] * 8, "image . of the data set is ndarray, expected a floating point tensor")])
def test_own_data_that_do_not_fit_are_named(data, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(config("digits", tmp_path / "run"), data=data, progress=False)


# A run of the first version

def test_a_run_of_the_first_version_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE, tmp_path / "old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["train", "--resume", "--out", "old/run"]) == 0
    losses = [row["loss"] for row in read_metrics("old/run")]
    expected = json.loads((FIXTURE / "losses.json").read_text())
    expected = [row["loss"] if isinstance(row, dict) else row for row in expected]
    assert len(losses) == 4 and np.allclose(losses, expected, rtol=0, atol=1e-4)


def test_a_run_of_the_first_version_that_held_images_out_unasked_does_so_again(pictures, tmp_path):
    c = config(pictures, tmp_path / "run", validation=0)
    train(c, progress=False)
    write_json(tmp_path / "run" / "data.json", {**read_json(tmp_path / "run" / "data.json"), "held_out": 4})
    kept, held_out = run_module.load_data(c, None, read_json(tmp_path / "run" / "data.json"))
    assert (len(kept), len(held_out)) == (12, 4)
