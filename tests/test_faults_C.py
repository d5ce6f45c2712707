"""Faults that users report, as they meet them at the command line. The numbers are those of the list of such faults."""
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import SMALL, small_denoiser

from ddpm_course.app import commands
from ddpm_course.app.cli import main
from ddpm_course.app.commands import labels_of
from ddpm_course.hub import save_pretrained

QUICK = ["--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    "A model of 8 x 8 grey pixels that knows three classes by name."
    folder = tmp_path_factory.mktemp("models") / "pets"
    save_pretrained(small_denoiser(classes=["cat", "dog", "guinea pig, brown"]), folder)
    return str(folder)


def picture(*args):
    "The pixels of the picture that `ddpm_course sample` writes with these arguments."
    assert main(["sample", *args, *QUICK]) == 0
    with Image.open(args[args.index("--out") + 1]) as image:
        return np.asarray(image)


# 11: classes by their names

@pytest.mark.parametrize("text, labels", [
    ("cat", [0]), ("dog,cat", [1, 0]), ("cat, dog", [0, 1]), ("2", [2]), ("0,dog", [0, 1]),
    ("guinea pig, brown", [2])])
def test_11_classes_are_asked_for_by_name_or_number(text, labels):
    assert labels_of(text, 3, ["cat", "dog", "guinea pig, brown"]) == labels


def test_11_a_name_that_is_a_number_means_the_name():
    names = [str(number) for number in range(1, 13)]
    assert labels_of("12", 12, names) == [11] and labels_of("1,2", 12, names) == [0, 1]
    assert labels_of("3", 12, None) == [3] and labels_of(None, 2, None) == [0, 1]
    assert labels_of(None, None, None) is None


def test_11_a_class_that_is_drawn_by_name_is_the_one_of_that_number(pets, tmp_path):
    def draw(*y):
        return picture(pets, "--n", "2", *y, "--out", str(tmp_path / "x.png"))
    assert (draw("--y", "dog") == draw("--y", "1")).all() and (draw("--y", "dog") != draw("--y", "cat")).any()
    assert (draw("--y", "cat,dog") == draw()).all() and (draw("--y", "dog,cat") != draw()).any()


@pytest.mark.parametrize("y, words", [
    ("bird", "y is bird, expected 0 to 2, or a name: cat, dog, guinea pig, brown"),
    ("catt", "did you mean cat?"), ("cat,3", "y is 3, expected 0 to 2"), ("-1", "y is -1, expected 0 to 2"),
    ("", "y is , expected 0 to 2")])
def test_11_a_class_that_is_not_known_is_refused_by_name(pets, capsys, y, words):
    assert main(["sample", pets, f"--y={y}", *QUICK]) == 2
    assert words in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_11_a_model_without_classes_draws_none(tmp_path, capsys):
    save_pretrained(small_denoiser(config=dataclasses.replace(SMALL, num_classes=None)), tmp_path / "plain")
    assert main(["sample", str(tmp_path / "plain"), "--y", "cat", *QUICK]) == 2
    assert "y is cat, expected none, because the model knows no classes" in capsys.readouterr().err


def test_11_info_lists_the_classes(pets, capsys):
    assert main(["info", pets]) == 0
    assert "classes      0 cat, 1 dog, 2 guinea pig, brown\n" in capsys.readouterr().out


def test_11_a_class_whose_name_is_not_utf8_is_drawn_by_that_name(tmp_path, capsys):
    names = [os.fsdecode(b"caf\xe9"), "two\nlines", "dog"]
    save_pretrained(small_denoiser(classes=names), tmp_path / "model")
    for name in names:
        assert main(["sample", str(tmp_path / "model"), "--y", name, "--n", "1", *QUICK,
                     "--out", str(tmp_path / "one.png")]) == 0
    assert main(["info", str(tmp_path / "model")]) == 0
    assert "0 caf\\udce9, 1 two lines, 2 dog" in capsys.readouterr().out


def test_12_info_says_that_a_model_states_no_range(tmp_path, capsys):
    save_pretrained(small_denoiser(clip=None), tmp_path / "model")
    assert main(["info", str(tmp_path / "model")]) == 0 and "values without fixed bounds" in capsys.readouterr().out


def test_12_pictures_heed_the_range_of_the_model(tmp_path, monkeypatch):
    save_pretrained(small_denoiser(clip=(0, 1)), tmp_path / "model")
    black_grey_white = torch.tensor([0, 0.5, 1])[:, None, None, None].expand(3, 1, 8, 8)
    monkeypatch.setattr(commands, "drawn", lambda denoiser, c, labels: iter([black_grey_white]))
    pixels = picture(str(tmp_path / "model"), "--n", "3", "--out", str(tmp_path / "x.png"))
    assert [pixels[10, 10, 0], pixels[10, 30, 0], pixels[30, 10, 0]] == [0, 128, 255]
    assert main(["sample", str(tmp_path / "model"), "--n", "3", "--each", "--out", str(tmp_path / "each"), *QUICK]) == 0
    assert [Image.open(p).getpixel((0, 0)) for p in sorted((tmp_path / "each").iterdir())] == [0, 128, 255]


def test_15_a_picture_is_of_the_kind_that_its_name_says(pets, tmp_path, capsys):
    for suffix, kind in ((".jpg", "JPEG"), (".PNG", "PNG"), (".webp", "WEBP")):
        assert main(["sample", pets, "--n", "1", *QUICK, "--out", str(tmp_path / f"x{suffix}")]) == 0
        with Image.open(tmp_path / f"x{suffix}") as image:
            assert image.format == kind
    capsys.readouterr()
    assert main(["sample", pets, "--n", "1", "--steps", "1000", "--out", str(tmp_path / "x.bmp")]) == 2  # at once
    assert "ends in '.bmp', expected a picture that ends in one of" in capsys.readouterr().err
    assert main(["sample", pets, "--n", "1", *QUICK, "--out", str(tmp_path)]) == 2
    assert f"out is {str(tmp_path)!r}, expected a file in a folder" in capsys.readouterr().err


# 17: whose fault it was, and terminals that are not there

def fails(error):
    def command(*args, **options):
        raise error
    return command


def test_17_a_fault_of_the_program_shows_where_it_is_and_asks_to_be_reported(monkeypatch, capsys):
    for error in (ValueError("not enough values to unpack"), OSError("no backend"), TypeError("len() of a NoneType")):
        monkeypatch.setattr(commands, "load_pretrained", fails(error))
        assert main(["info", "digits"]) == 1
        said = capsys.readouterr().err
        assert "Traceback (most recent call last):" in said and str(error) in said and "please report" in said


def test_17_also_where_the_line_at_fault_is_in_the_package(monkeypatch, capsys):
    monkeypatch.setattr(commands.Path, "name", "step-many")  # describe_run reads the step from it
    monkeypatch.setattr(commands, "checkpoints", lambda run: [Path("x")])
    monkeypatch.setattr(commands, "is_whole", lambda checkpoint: True)
    monkeypatch.setattr(commands, "read_json", lambda path: {})
    monkeypatch.setattr(commands, "read_metrics", lambda path: [])
    monkeypatch.setattr(commands, "best_checkpoint", lambda path: None)
    monkeypatch.setattr(commands, "saved_config", lambda path: commands.TrainConfig())
    with pytest.raises(ValueError, match="invalid literal for int"):
        commands.describe_run("run")
    monkeypatch.setattr(commands, "describe_model", commands.describe_run)
    assert main(["info", "run"]) == 1 and "please report" in capsys.readouterr().err


def test_17_what_was_refused_on_purpose_is_one_line_and_where_is_shown_on_demand(capsys):
    assert main(["sample", "digits", "--n", "0"]) == 2 and capsys.readouterr().err.count("\n") == 1
    for args in (["sample", "digits", "--n", "0", "--traceback"], ["--traceback", "sample", "digits", "--n", "0"]):
        assert main(args) == 2
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first.startswith("Traceback") and last.startswith("ddpm_course sample: n is 0, expected")


def test_17_what_the_disk_answers_and_too_little_memory_are_no_faults_of_the_program(monkeypatch, capsys):
    for error, words in ((OSError(28, "No space left on device", "x.png"), "No space left on device: 'x.png'"),
                         (MemoryError(), "not enough memory; a smaller --batch-size"),
                         (torch.OutOfMemoryError("tried 2 GiB\nand more"), "not enough memory; a smaller --batch-size"),
                         (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory")):
        monkeypatch.setattr(commands, "load_pretrained", fails(error))
        assert main(["info", "digits"]) == 1
        assert words in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_17_an_output_that_cannot_show_every_letter(pets, tmp_path):
    out = tmp_path / "grüße.png"
    ended = subprocess.run([sys.executable, "-m", "ddpm_course", "sample", pets, "--n", "1", *QUICK, "--out", str(out)],
                           env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert ended.returncode == 0 and out.is_file() and not ended.stderr
    assert ended.stdout == f"1 images from {pets} are in {tmp_path}/gr\\xfc\\xdfe.png\n"


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the streams")
@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_17_streams_that_are_closed_or_full(pets, tmp_path, streams):
    command = f'"{sys.executable}" -m ddpm_course sample "{pets}" --n 1 {" ".join(QUICK)} --out x.png {streams}'
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    with Image.open(tmp_path / "x.png") as image:  # whole, with nothing of what was said in it
        image.load()
    assert ended.returncode == 0 and not ended.stderr, ended.stderr


def test_17_a_mistake_is_refused_where_nobody_can_be_told(tmp_path):
    "Without a stderr the words would land in the first file that is opened."
    command = f'"{sys.executable}" -m ddpm_course sample nothing >&- 2>&-'
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path).returncode == 2 and not list(tmp_path.iterdir())


# 18: what --config may hold, and many images

@pytest.mark.parametrize("entry, value, words", [
    ("channel_mults", 4, "channel_mults is 4, expected whole numbers such as (1, 2)"),
    ("attention_resolutions", 7, "attention_resolutions is 7, expected"),
    ("channel_mults", [1, "2"], "channel_mults is '2'"), ("flip", "true", "flip is 'true'"),
    ("conditional", "false", "conditional is 'false', expected one of (False, True)"), ("resume", 0, "resume is 0"),
    ("steps", True, "steps is True"), ("steps", 10.5, "steps is 10.5"),
    ("data", 3, "data is 3, expected text"), ("schedule", ["cosine"], "schedule is ['cosine'], expected one of"),
    ("stepz", 3, "has the entry 'stepz', expected options of `ddpm_course train`; did you mean steps?")])
def test_18_a_configuration_is_refused_by_file_and_name(tmp_path, monkeypatch, capsys, entry, value, words):
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps({entry: value}))
    assert main(["train", "--config", "mine.json", "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert "'mine.json'" in said and words in said and said.count("\n") == 1 and not Path("run").exists()


def test_18_batches_draw_the_images_that_are_drawn_at_once(pets, tmp_path):
    out = str(tmp_path / "x.png")
    whole = picture(pets, "--n", "7", "--out", out)
    parts = picture(pets, "--n", "7", "--batch-size", "3", "--out", out)
    assert whole.shape == parts.shape and np.abs(whole.astype(int) - parts).max() <= 1  # rounding, at most
    assert (picture(pets, "--n", "7", "--batch-size", "3", "--seed", "1", "--out", out) != parts).any()


def test_18_no_more_than_a_batch_is_drawn_at_a_time(pets, tmp_path, monkeypatch):
    sizes, real = [], commands.ddim_steps
    monkeypatch.setattr(commands, "ddim_steps", lambda d, n, **options: sizes.append(n) or real(d, n, **options))
    picture(pets, "--n", "150", "--out", str(tmp_path / "x.png"))
    assert sizes == [64, 64, 22]


def test_18_each_image_is_a_file_of_its_own(pets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grid = picture(pets, "--n", "4", "--out", "x.png")
    assert main(["sample", pets, "--n", "4", "--each", "--batch-size", "3", *QUICK]) == 0
    assert capsys.readouterr().out.endswith(f"4 images from {pets} are in samples\n")
    assert sorted(p.name for p in Path("samples").iterdir()) == [f"{i:06d}.png" for i in range(4)]
    for i in range(4):
        with Image.open(f"samples/{i:06d}.png") as image:
            assert image.mode == "L" and image.size == (8, 8)
            top, left = 4 + i // 2 * 20, 4 + i % 2 * 20  # two pixels apart, and twice as large
            assert np.abs(np.asarray(image).astype(int) - grid[top:top + 16:2, left:left + 16:2, 0]).max() <= 1
    assert main(["sample", pets, "--each", *QUICK]) == 2  # they would be mixed with others
    assert "out is 'samples', which exists already; expected a new or empty folder" in capsys.readouterr().err


def test_18_more_images_than_a_picture_can_hold_are_refused_before_they_are_drawn(tmp_path, capsys):
    assert main(["sample", "digits", "--n", "2000000", "--out", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err
    assert "n is 2000000, expected at most 49710 images of 28 x 28 pixels in one picture; --each" in said
    assert (222 * 30 * 2 + 4) ** 2 < 2 * Image.MAX_IMAGE_PIXELS < (224 * 30 * 2 + 4) ** 2  # 222 rows can be opened
