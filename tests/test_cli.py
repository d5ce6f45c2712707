"""The command line: every option explained, one line said, the options of a file and of the command line together."""
import dataclasses
import inspect
import re

import pytest
from PIL import Image

from ddpm_course.app.cli import describe_run, main
from ddpm_course.app.config import TrainConfig
from ddpm_course.lib.storage import read_json

SMALL = ("--base-channels 8 --groups 4 --num-timesteps 50 --sample-steps 3 --samples 4 --steps 4 --batch-size 4 "
         "--device cpu").split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run of four steps on the digits."
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--out", str(folder), *SMALL]) == 0
    return folder


def test_the_help_of_train_explains_every_field_in_the_words_of_its_comment(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert not stop.value.code
    told, fields = capsys.readouterr().out, dataclasses.fields(TrainConfig)
    assert not [f.name for f in fields if f"--{f.name.replace('_', '-')}" not in told]
    assert told.count("default:") == len(fields)
    explained = " ".join(told.replace("│", " ").split())  # the boxes wrap their lines
    source = [line for cls in TrainConfig.__mro__[:-1] for line in inspect.getsource(cls).splitlines()]
    comments = [line.split("  # ")[1] for line in map(str.strip, source) if "  # " in line]  # no headings
    assert len(comments) == len(fields) and not [words for words in comments if words not in explained]


@pytest.mark.parametrize("args, code", [(["--help"], 0), (["-h"], 0), ([], 2), (["tarin"], 2)])
def test_the_commands_are_listed_where_help_is_asked_for_or_none_of_them_is_given(capsys, args, code):
    assert main(args) == code
    told = capsys.readouterr()
    usage, silent = (told.out, told.err) if code == 0 else (told.err, told.out)
    assert usage.startswith("usage: ddpm_course {train,sample,info}") and not silent


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
