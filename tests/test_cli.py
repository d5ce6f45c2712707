"""The command line: every option explained, one line said, the options of a file and of the command line together."""
import dataclasses
import inspect
import re
import subprocess
import sys

import pytest
from PIL import Image

import ddpm_course
from ddpm_course.app import commands
from ddpm_course.app.cli import main
from ddpm_course.app.commands import describe_run
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.options import read_options
from ddpm_course.lib.storage import read_json

SMALL = ("--base-channels 8 --groups 4 --num-timesteps 50 --sample-steps 3 --samples 4 --steps 4 --batch-size 4 "
         "--device cpu").split()


class Stopped:
    "What `train` answers after Ctrl-C, before any update."
    folder, step, skipped, finished, stopped_by = "run", 0, [], False, 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run of four steps on the digits."
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--out", str(folder), *SMALL]) == 0
    return folder


def test_the_help_of_train_explains_every_field_in_the_words_of_its_comment(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert not stop.value.code
    told, fields = capsys.readouterr().out, dataclasses.fields(TrainConfig)
    for field in fields:
        assert told.count(f"  --{field.name.replace('_', '-')} ") + told.count(f"  --{field.name}, ") == 1, field.name
    assert told.count("(default: ") == len(fields)
    comments = re.findall("^    .*?  # (.*)", inspect.getsource(TrainConfig), re.MULTILINE)
    assert len(comments) == len(fields) and not [words for words in comments if words not in told]


def test_the_ten_options_that_matter_come_first(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    first, *others = re.split(r"\n\n(?=\S.*:\n  -)", capsys.readouterr().out)[1:]
    named = re.findall("^  (--[a-z-]+)", first, re.MULTILINE)
    assert first.startswith("the ten that matter:") and len(named) == 10 and len(others) == 6
    assert {"--data", "--out", "--steps", "--resume"} <= set(named)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["tarin"], ["train", "--help"], ["sample", "--help"],
                                  ["train", "--stepz", "3"], ["sample"]])
def test_nobody_waits_for_torch_who_asks_how_to_use_the_program(args):
    "Torch takes seconds to load."
    code = ("import sys\nfrom ddpm_course.app.cli import main\ntry:\n    main(sys.argv[1:])\n"
            "except SystemExit:\n    pass\nassert not {'torch', 'numpy'} & sys.modules.keys(), 'loaded'")
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout + ended.stderr, ended.stderr


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"ddpm_course {ddpm_course.__version__}\n"


@pytest.mark.parametrize("line, wrong, meant", [
    ("tarin", "tarin", "train"), ("smaple digits", "smaple", "sample"), ("train --stepz 3", "--stepz", "--steps"),
    ("train --chanel_mults=1", "--chanel-mults", "--channel-mults"), ("train -steps 3", "-steps", "--steps"),
    ("train --resum", "--resum", "--resume"), ("sample digits --guidence 2", "--guidence", "--guidance")])
def test_what_is_misspelt_is_named_with_what_was_meant(capsys, line, wrong, meant):
    assert main(line.split()) == 2
    told = capsys.readouterr()
    assert f"{wrong!r} is unknown" in told.err and told.err.endswith(f"; did you mean {meant}?\n") and not told.out


def test_options_may_be_written_with_underscores_and_with_equals_signs():
    assert read_options("train", ["--batch_size=8", "--channel_mults", "1", "2", "4", "--no-flip", "--lr", "1e-4"]) == {
        "batch_size": 8, "channel_mults": (1, 2, 4), "flip": False, "lr": 1e-4}
    assert read_options("train", ["--attention_resolutions", "None", "--conditional", "False"]) == {
        "attention_resolutions": None, "conditional": False}
    assert read_options("train", ["--attention-resolutions", "14", "7"]) == {"attention_resolutions": (14, 7)}
    assert read_options("train", ["--channel-mults"]) == {"channel_mults": ()}


@pytest.mark.parametrize("args, code", [(["--help"], 0), (["-h"], 0), ([], 2), (["tarin"], 2)])
def test_the_commands_are_listed_where_help_is_asked_for_or_none_of_them_is_given(capsys, args, code):
    assert main(args) == code
    told = capsys.readouterr()
    usage, silent = (told.out, told.err) if code == 0 else (told.err, told.out)
    assert usage.startswith("usage: ddpm_course {train,sample,info,evaluate}") and not silent
    assert usage.endswith("did you mean train?\n") == (args == ["tarin"])


def test_training_says_in_one_line_where_its_results_are(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "run"), *SMALL, "--steps", "1"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and f"ddpm_course sample {tmp_path / 'run'}" in told
    with Image.open(tmp_path / "run" / "samples.png") as picture:
        assert picture.size == (2 * 62, 2 * 62)  # two by two, twice as large


def test_a_run_that_knows_classes_draws_the_one_that_is_asked_for(trained, tmp_path, capsys):
    args = ["sample", str(trained), "--n", "1", "--steps", "1", "--device", "cpu"]
    pictures = []
    for y in ("0", "1", "0"):
        assert main([*args, "--y", y, "--out", str(tmp_path / "drawn.png")]) == 0
        assert capsys.readouterr().out == f"1 images from {trained} are in {tmp_path / 'drawn.png'}\n"
        with Image.open(tmp_path / "drawn.png") as picture:
            assert picture.size == (2 * 32, 2 * 32)
            pictures.append(picture.tobytes())
    assert pictures[0] == pictures[2] != pictures[1]


def test_info_says_what_was_trained_on_what_and_where_it_stands(trained):
    told = describe_run(trained)
    assert re.fullmatch(r"\d\.\d{4} at step 4", told.pop("loss"))
    assert re.fullmatch(r"step-00000004, with a validation loss of \d\.\d{4}", told.pop("best"))
    assert told.pop("classes") == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert told == {
        "run": f"{trained}: finished, 4 of 4 steps saved",
        "images": "digits: 10000 of 28 x 28 pixels and 1 channel(s), 10 classes; 2000 held out; files left out: 0",
        "training": "batches of 4, learning rate 0.001, EMA 0.995, float32, seed 0",
        "checkpoints": "step-00000004",
        "model": "45,756 parameters, predicts v, cosine schedule with T = 50"}


@pytest.mark.parametrize("config", [lambda file: ["--config", file], lambda file: [f"--config={file}"]])
def test_options_come_from_a_file_and_those_of_the_command_line_on_top(trained, tmp_path, config):
    options = [*config(str(trained / "config.json")), "--out", str(tmp_path / "again"), "--steps", "2"]
    assert main(["train", *options]) == 0
    first, again = read_json(trained / "config.json"), read_json(tmp_path / "again" / "config.json")
    assert again == first | {"out": str(tmp_path / "again"), "steps": 2} and first["base_channels"] == 8
    assert "finished, 2 of 2 steps" in describe_run(tmp_path / "again")["run"]


def test_a_run_is_resumed_from_its_own_configuration_with_what_is_said_on_top(trained, capsys):
    assert main(["train", "--resume", "--out", str(trained)]) == 0
    assert main(["train", "--resume", "--out", str(trained), "--samples", "2"]) == 0 and not capsys.readouterr().err
    assert read_json(trained / "config.json")["base_channels"] == 8
    assert read_json(trained / "config.json")["samples"] == 2
    assert main(["train", "--resume", "--out", str(trained), "--samples", "4"]) == 0


def test_a_model_is_described_by_its_name_and_by_its_folder(trained, capsys):
    assert main(["info", "digits"]) == 0
    told = capsys.readouterr().out
    for words in ("model        digits: 1,465,876 parameters, predicts v, cosine schedule with T = 1000\n",
                  "28 x 28 pixels and 1 channel(s)", "0, 1, 2, 3, 4", "data         MNIST's 60,000 training digits"):
        assert words in told
    assert main(["info", str(trained / "checkpoints" / "step-00000004")]) == 0
    assert "45,756 parameters, predicts v, cosine schedule with T = 50\n" in capsys.readouterr().out


def test_a_second_run_without_a_folder_of_its_own_finds_one_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    began = []
    monkeypatch.setattr(commands, "train", lambda config, progress: began.append(config.out) or Stopped())
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    main(["train"])
    assert began == ["runs/digits"] and "exists" not in capsys.readouterr().err  # an empty folder is free
    (tmp_path / "runs" / "digits" / "config.json").touch()
    main(["train"])
    (tmp_path / "runs" / "digits-2").mkdir()
    main(["train"])
    assert began == ["runs/digits", "runs/digits-2", "runs/digits-3"]
    assert "runs/digits exists already, so this run is written to runs/digits-3; " in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--out", str(tmp_path / "runs" / "digits")]) == 2  # who names a folder means that folder
    assert "exists already; expected a new folder" in capsys.readouterr().err


def test_several_processes_do_not_look_for_a_folder_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "config.json").touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--device", "cpu"]) == 2 and "exists already; expected a new" in capsys.readouterr().err
