"""Faults that users of such tools report, in `lib` and `data`. Each test bears the number of its fault."""
import contextlib
import errno
import hashlib
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from ddpm_course.data import ImageDataset, hold_out, load_images
from ddpm_course.lib import storage, viz
from ddpm_course.lib.images import IMAGE_SUFFIXES, UnreadableImage, batches, fingerprint, fingerprints
from ddpm_course.lib.ledger import equation, read_ledger
from ddpm_course.lib.storage import append_line, read_verified, tidy, whole_folder, write_atomic, write_folder

real_replace = os.replace
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def picture(path, grey=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), grey).save(path)
    return path


def read(folder, **options):
    return load_images(folder, image_size=8, channels=1, **options)


def test_1_names_that_are_not_utf8_are_written_and_drawn(tmp_path):
    append_line(tmp_path / "log.jsonl", NOT_UTF8)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "caf\\udce9\n"
    storage.write_json(tmp_path / "about.json", {"name": NOT_UTF8})
    assert storage.read_json(tmp_path / "about.json") == {"name": NOT_UTF8}
    with mock.patch("builtins.print"), equation("0.1", NOT_UTF8, folder=tmp_path / "ledger") as eq:
        eq.close(1, 1, atol=0)
    assert read_ledger(tmp_path / "ledger")[0]["claim"] == NOT_UTF8
    figure = viz.show_images(torch.zeros(1, 1, 4, 4), titles=[NOT_UTF8])
    assert figure.axes[0].get_title() == "caf\\udce9" and figure._repr_png_().startswith(b"\x89PNG")
    plt.close(figure)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOSYS])
@pytest.mark.parametrize("step", ["os.open", "os.fsync"])
def test_7_a_disk_that_cannot_flush_a_folder_is_written_to(tmp_path, code, step):
    real = {"os.open": os.open, "os.fsync": os.fsync}[step]

    def refuse(target, *more):
        is_folder = os.path.isdir(target) if step == "os.open" else os.path.isdir(f"/proc/self/fd/{target}")
        if is_folder:
            raise OSError(code, os.strerror(code))
        return real(target, *more)
    with mock.patch(step, refuse):
        write_folder(tmp_path / "model", {"weights.bin": b"one"}, {})
    assert read_verified(tmp_path / "model", "weights.bin") == b"one"


@pytest.mark.parametrize("code, written", [(errno.EINVAL, True), (errno.ENOSYS, True), (errno.EIO, False),
                                           (errno.EACCES, False)])
def test_7_a_disk_that_cannot_flush_at_all_is_written_to_and_one_that_fails_is_told(tmp_path, code, written):
    told = contextlib.nullcontext() if written else pytest.raises(OSError, match="one.bin")
    with mock.patch("os.fsync", side_effect=OSError(code, os.strerror(code))), told:
        write_atomic(tmp_path / "one.bin", b"one")
    assert (tmp_path / "one.bin").exists() == written


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_7_a_disk_that_fails_to_flush_a_folder_is_told(tmp_path, code):
    with mock.patch("os.open", side_effect=OSError(code, "failed")), pytest.raises(OSError, match="failed"):
        storage._sync_folder(tmp_path)


def test_11_class_2_comes_before_class_10(tmp_path):
    for name in [str(i) for i in range(1, 13)] + ["img10", "img2", "a²", "01"]:
        picture(tmp_path / name / "x.png", 7 if name == "2" else 0)
    found = read(tmp_path)
    assert found.classes == ["01", *map(str, range(1, 13)), "a²", "img2", "img10"]
    assert found.labels[found.images[:, 0, 0, 0] == 7].tolist() == [found.classes.index("2")]


def test_11_a_run_of_before_keeps_its_numbers_and_its_fingerprint(tmp_path):
    for name in ("1", "2", "10"):
        picture(tmp_path / name / "x.png", int(name))
    found, before = read(tmp_path), ["1", "10", "2"]  # what data.json says of a run that was begun in plain order
    again = found.numbered_as(before)
    assert again.classes == before and again.labels.tolist() == [0, 1, 2]
    assert again.images[:, 0, 0, 0].tolist() == [1, 10, 2]
    turned = found.numbered_as(["10", "1", "2"])  # a cycle: the exchange of two above is its own inverse
    assert [turned.classes[y] for y in turned.labels] == [found.classes[y] for y in found.labels]
    old = hashlib.sha256(repr((3, 1, 8, 8)).encode())  # as the first version made it
    old.update(again.images.numpy())
    old.update(torch.tensor([0, 1, 2]).numpy())
    assert fingerprints(again) == [old.hexdigest()] != fingerprints(found)
    with pytest.raises(ValueError, match=r"classes are \['1', '2'\], expected these, in any order: \['1', '2', '10'\]"):
        found.numbered_as(["1", "2"])


def test_2_the_fingerprint_of_files_does_not_see_where_they_lie(tmp_path, monkeypatch):
    for i in range(3):
        picture(tmp_path / "pics" / f"{i}.png", i)
    here = fingerprint(read(tmp_path / "pics", memory=0))
    monkeypatch.chdir(tmp_path)
    assert fingerprint(read("pics/", memory=0)) == fingerprint(read("./pics", memory=0)) == here
    old = hashlib.sha256(repr((3, 1, 8, 8)).encode())  # as the first version made it
    old.update("".join(f"pics/{i}.png {os.path.getsize(f'pics/{i}.png')}\n" for i in range(3)).encode())
    assert fingerprints(read("pics", memory=0)) == [here, old.hexdigest()]
    os.rename("pics", "moved")
    assert fingerprint(read("moved", memory=0)) == here
    os.rename("moved/0.png", "moved/zero.png")
    assert fingerprint(read("moved", memory=0)) != here


def test_12_pictures_heed_the_range_that_is_stated(tmp_path):
    x = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 4)
    assert viz.to_pixels(x, (0, 1))[0, 0, :, 0].tolist() == [0, 128, 255, 255]
    assert viz.to_pixels(x, None).tolist() == viz.to_pixels(x).tolist() == viz.to_pixels(x, (-1, 1)).tolist()
    assert viz.grid(x, pad=0, range=(0, 1))[0, :, 0].tolist() == [0, 128, 255, 255]
    viz.save_grid(x, tmp_path / "a.png", scale=1, range=(0, 1))
    assert np.asarray(Image.open(tmp_path / "a.png"))[2, 2:6, 0].tolist() == [0, 128, 255, 255]
    viz.save_gif([x], tmp_path / "a.gif", scale=1, range=(0, 1))
    assert np.asarray(Image.open(tmp_path / "a.gif").convert("L"))[2, 2:6].tolist() == [0, 128, 255, 255]
    figure = viz.show_images(x, range=(0, 1))
    assert figure.axes[0].images[0].get_array()[0, :, 0].tolist() == [0, 128, 255, 255]
    plt.close(figure)
    for bad in ((1, 0), (0, 0), (0, float("nan"))):
        with pytest.raises(ValueError, match="range is .*, expected the darkest number and the brightest"):
            viz.to_pixels(x, bad)


@pytest.mark.parametrize("suffix, kind", [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_15_a_picture_is_of_the_kind_that_its_name_says(tmp_path, suffix, kind):
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    viz.save_grid(x, tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as opened:
        assert opened.format == kind
        off = np.abs(np.asarray(opened.convert("RGB")).astype(int) - viz.grid(x).repeat(2, 0).repeat(2, 1))
    assert off.max() == 0 or kind == "JPEG" and off.mean() < 8


def test_15_a_picture_of_another_kind_is_refused_by_name(tmp_path):
    x = torch.zeros(1, 1, 8, 8)
    for write, name in ((viz.save_grid, "x.heic"), (viz.save_grid, "x.txt"),
                        (lambda x, p: viz.save_gif([x], p), "x.mp4"),
                        (lambda x, p: viz.plot_loss([1], [1], p), "x.heic")):
        with pytest.raises(ValueError, match=name[1:].strip(".")):
            write(x, tmp_path / name)
    assert not list(tmp_path.iterdir())
    viz.plot_loss([1, 2], [1, 2], tmp_path / "loss.svg")
    assert b"<svg" in (tmp_path / "loss.svg").read_bytes()


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_15_a_folder_in_the_shadow_of_a_named_data_set_is_said(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / name / "x.png")
    monkeypatch.setattr("ddpm_course.data.BUNDLED", {name: lambda split: ImageDataset(torch.zeros(5, 1, 8, 8).byte())})
    with pytest.warns(UserWarning, match=f"data is '{name}', the data set of that name.* say './{name}'"):
        assert len(read(name)) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(f"./{name}")) == 1 and len(read(Path(name))) == 1


def test_15_images_of_a_kind_that_is_not_read_count_as_left_out(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    for i in range(80):
        (tmp_path / f"{i}.heic").write_bytes(b"x")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"80 of 83 images cannot be read, expected at most 10%; the first: .*heic"):
        read(tmp_path)
    found = read(tmp_path, max_skipped=0.97)
    assert len(found) == 3 and len(found.skipped) == 81
    assert ("an image of a kind that is not read: it ends in '.heic'" == dict(found.skipped)[str(tmp_path / "7.heic")])
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="no images in .*there are 80 others, the first: .* it ends in '.heic'"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".jpg_large", ".png~", ".txt"])
def test_15_images_with_another_ending_count_as_left_out(tmp_path, suffix):
    "Eight of nine files left out is a run that should not start; captions beside images are no images."
    for i in range(9):
        picture(tmp_path / f"{i}.png")
        (tmp_path / f"caption{i}{suffix}").write_text("a picture")
    assert len(read(tmp_path)) == 9
    for i in range(1, 9):
        (tmp_path / f"{i}.png").rename(tmp_path / f"{i}{suffix}")
    with pytest.raises(ValueError, match="8 of 9 images cannot be read, .* an image with another ending: it ends in "):
        read(tmp_path)


@pytest.mark.parametrize("suffix, kind", [("jfif", "JPEG"), ("JFIF", "JPEG"), ("avif", "AVIF")])
def test_15_jfif_and_avif_are_read(tmp_path, suffix, kind):
    if f".{suffix.lower()}" not in IMAGE_SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    Image.new("L", (8, 8), 99).save(tmp_path / f"x.{suffix}", kind)
    assert abs(int(read(tmp_path).images[0, 0, 4, 4]) - 99) <= 2


def test_15_a_class_lost_to_the_split_or_to_damage_is_said(tmp_path):
    labels = torch.tensor([0] * 19 + [1])
    data = ImageDataset(torch.zeros(20, 1, 4, 4).byte(), labels, ["often", "once"])
    told = {}
    for seed in range(20):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kept, _ = hold_out(data, 0.5, seed)
        told[seed] = [str(w.message) for w in caught]
        assert bool(told[seed]) == (1 not in kept.labels)
    assert {words for each in told.values() for words in each} == {
        "1 of 2 classes have no image left to train on, because all of theirs are held out: 'once'"}
    for i in range(10):
        picture(tmp_path / "fine" / f"{i}.png")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x.png").touch()
    with pytest.warns(UserWarning, match="1 of 2 classes have no image .*can be read: 'damaged'"):
        assert read(tmp_path).classes == ["damaged", "fine"]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_17_a_seed_outside_64_bits_is_refused_by_name(seed):
    data = ImageDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=f"seed is {seed}, expected a whole number from 0 to"):
        hold_out(data, 0.5, seed)
    assert [len(part) for part in hold_out(data, 0.5, np.int64(7))] == [2, 2]


def test_17_a_folder_that_cannot_be_looked_into_is_listed(tmp_path, monkeypatch):
    picture(tmp_path / "a" / "x.png"), picture(tmp_path / "b" / "x.png")
    real = Path.iterdir

    def closed(self):
        if self.name == closed.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)
    monkeypatch.setattr(Path, "iterdir", closed)
    closed.name = "b"
    found = read(tmp_path)
    assert len(found) == 1
    assert found.skipped == [(str(tmp_path / "b"), "a folder that cannot be read: Permission denied")]
    closed.name = tmp_path.name
    with pytest.raises(ValueError, match="data is '.*', expected a folder that can be read: .*Permission denied"):
        read(tmp_path)


class Killed(BaseException):
    pass


@pytest.fixture
def killed_between_renames(tmp_path):
    "A folder as a kill leaves it that came after the old content was set aside; the new one is not in its place."
    folder = tmp_path / "checkpoints" / "digits"
    write_folder(folder, {"weights.bin": b"old"}, {})
    calls = []

    def replace(old, new):
        if Path(new) == folder:
            calls.append(new)
            raise Killed
        if calls:
            raise Killed  # a dead process puts nothing back
        real_replace(old, new)
    with mock.patch("os.replace", replace), mock.patch("shutil.rmtree"), pytest.raises(Killed):
        write_folder(folder, {"weights.bin": b"new"}, {})
    assert not folder.exists() and calls
    return folder


def test_18_a_kill_between_two_renames_leaves_a_folder_that_is_read(killed_between_renames):
    folder = killed_between_renames
    assert read_verified(folder, "weights.bin") == b"old" and not folder.exists()
    assert whole_folder(folder) == folder.with_name(".digits.old")


def test_18_the_next_writer_puts_the_folder_back(killed_between_renames):
    folder = killed_between_renames
    with mock.patch("ddpm_course.lib.storage.write_atomic", side_effect=OSError("full")), pytest.raises(OSError):
        write_folder(folder, {"weights.bin": b"third"}, {})
    assert (folder / "weights.bin").read_bytes() == b"old"
    write_folder(folder, {"weights.bin": b"third"}, {})
    assert read_verified(folder, "weights.bin") == b"third" and [p.name for p in folder.parent.iterdir()] == ["digits"]


def test_18_tidying_up_puts_the_folder_back_and_takes_the_rest_away(killed_between_renames):
    folder = killed_between_renames
    (folder.parent / ".other.old").mkdir(), (folder.parent / "other").mkdir()
    tidy(folder.parent)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["digits", "other"]
    assert read_verified(folder, "weights.bin") == b"old"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_19_what_is_a_link_is_written_through_it(tmp_path):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    write_folder(real, {"weights.bin": b"one"}, {})
    os.symlink(real, link)
    for content in (b"two", b"three"):
        write_folder(link, {"weights.bin": content}, {})
        assert link.is_symlink() and read_verified(real, "weights.bin") == read_verified(link, "weights.bin") == content
    os.symlink(tmp_path / "disk" / "new", tmp_path / "leads nowhere yet")
    write_folder(tmp_path / "leads nowhere yet", {"weights.bin": b"four"}, {})
    assert read_verified(tmp_path / "disk" / "new", "weights.bin") == b"four"
    os.symlink(tmp_path / "disk" / "notes.txt", tmp_path / "notes.txt")
    for content in (b"five", b"six"):
        write_atomic(tmp_path / "notes.txt", content)
        assert (tmp_path / "notes.txt").is_symlink() and (tmp_path / "disk" / "notes.txt").read_bytes() == content


@pytest.mark.parametrize("backend", ["module://nowhere", "module://matplotlib_inline.backend_inline", "tkagg"])
def test_6_figures_are_drawn_whatever_backend_the_environment_names(tmp_path, backend):
    code = ("import sys; sys.modules['matplotlib_inline'] = None; import torch\n"
            "from ddpm_course.lib.viz import plot_loss, show_images\n"
            "plot_loss([1, 2], [1, 2], 'loss.png')\n"
            "print(show_images(torch.zeros(1, 1, 4, 4))._repr_png_()[:4])")
    env = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(Path(viz.__file__).parents[2])}
    env.pop("DISPLAY", None)
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.stdout == "b'\\x89PNG'\n" and (tmp_path / "loss.png").exists(), told.stderr


def test_18_a_figure_is_shown_once(tmp_path):
    cells = ["import torch\nfrom ddpm_course.lib.viz import plot_loss, show_images\nx = torch.zeros(2, 1, 8, 8)",
             "show_images(x)", "plot_loss([1, 2], [1, 2])", "figure = show_images(x)", "figure", "show_images(x);",
             "import matplotlib.pyplot as plt\nshow_images(x)\nplt.show()", "show_images(x)\nprint('below')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(Path(viz.__file__).parents[2]), "MPLBACKEND": ""}):
        NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    shown = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]
    assert shown == [0] + [1] * 7


def test_the_processes_that_decode_end_where_an_error_is_told(tmp_path):
    for i in range(8):
        picture(tmp_path / f"{i}.png")
    data = read(tmp_path, memory=0)
    (tmp_path / "5.png").unlink()
    with pytest.raises(UnreadableImage, match="5.png") as held:  # with its traceback
        list(batches(data, [torch.tensor([i]) for i in range(8)], workers=2))
    assert not multiprocessing.active_children() and held.tb
