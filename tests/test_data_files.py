"""Folders of real files: every format and mode, what cannot be read, sets too large for memory, named data sets."""
import dataclasses
import inspect
import json
import multiprocessing
import os
import pickle
import signal
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import tifffile
import torch
import torchvision.datasets
from PIL import Image
from skimage import data as skimage_data

from ddpm_course.app import images as run_images
from ddpm_course.app import run as run_module
from ddpm_course.app.cli import main
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.run import train
from ddpm_course.data import hold_out, load_digits, load_images
from ddpm_course.formats.model_folder import checkpoints
from ddpm_course.hub import load_pretrained
from ddpm_course.lib import images as images_module
from ddpm_course.lib.images import ImageFiles, UnreadableImage, batches, fingerprint

RED = (200, 30, 60)


def read(folder, channels=3, size=8, **options):
    return load_images(folder, image_size=size, channels=channels, **options)


def centre(folder, channels=3, **options):
    "The middle pixel of the one image in a folder."
    found = read(folder, channels, **options)
    assert not found.skipped, found.skipped
    return found.images[0, :, 4, 4].tolist()


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "tiff", "tif", "webp", "gif", "PNG", "JPG"])
def test_every_format(tmp_path, suffix):
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix.lower(), suffix.upper())
    Image.new("RGB", (20, 30), RED).save(tmp_path / f"picture.{suffix}", kind)
    assert np.abs(np.subtract(centre(tmp_path), RED)).max() <= 4  # JPEG is not exact


MODES = {  # how to make it, and what the middle pixel is in RGB
    "palette": (lambda: Image.new("RGB", (9, 9), RED).convert("P", palette=Image.Palette.ADAPTIVE), RED),
    "grey": (lambda: Image.new("L", (9, 9), 77), (77, 77, 77)),
    "black and white": (lambda: Image.new("1", (9, 9), 1), (255, 255, 255)),
    "grey and alpha, clear": (lambda: Image.new("LA", (9, 9), (77, 0)), (255, 255, 255)),
    "grey and alpha, opaque": (lambda: Image.new("LA", (9, 9), (77, 255)), (77, 77, 77)),
    "RGBA, clear": (lambda: Image.new("RGBA", (9, 9), (*RED, 0)), (255, 255, 255)),
    "RGBA, half": (lambda: Image.new("RGBA", (9, 9), (0, 100, 200, 128)), (127, 177, 227)),
    "16 bits": (lambda: Image.fromarray(np.full((9, 9), 257 * 99, np.uint16)), (99, 99, 99)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png(tmp_path, mode):
    make, expected = MODES[mode]
    make().save(tmp_path / "picture.png")
    assert np.abs(np.subtract(centre(tmp_path), expected)).max() <= 1
    grey = sum(w * c for w, c in zip((0.299, 0.587, 0.114), expected))
    assert abs(centre(tmp_path, 1)[0] - grey) <= 1


def test_a_transparent_palette_cmyk_and_16_bit_tiff(tmp_path):
    paletted = Image.new("P", (9, 9), 1)
    paletted.putpalette([0, 0, 0, *RED])
    for name, image, options, expected in (
            ("a.gif", paletted, {"transparency": 1}, (255, 255, 255)),
            ("b.jpg", Image.new("CMYK", (9, 9), (0, 255, 255, 0)), {}, (255, 0, 0)),
            ("c.tif", Image.new("CMYK", (9, 9), (0, 255, 255, 0)), {}, (255, 0, 0)),
            ("d.tif", Image.fromarray(np.full((9, 9), 257 * 200, np.uint16)), {}, (200, 200, 200))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / name, **options)
        assert np.abs(np.subtract(centre(tmp_path / name), expected)).max() <= 4, name


def test_the_background_is_the_one_that_was_stated(tmp_path):
    Image.new("RGBA", (9, 9), (*RED, 0)).save(tmp_path / "clear.png")
    assert centre(tmp_path) == [255] * 3 and centre(tmp_path, background=0) == [0] * 3


def test_a_camera_held_upright_and_the_first_frame_of_a_gif(tmp_path):
    half = np.zeros((20, 10, 3), np.uint8)
    half[:10] = 255  # bright above, in the file; the note says to turn it by 90 degrees clockwise: bright to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(half).save(tmp_path / "upright.png", exif=exif)
    pixels = read(tmp_path).images[0, 0].float()
    assert pixels[:, :3].mean() < 30 and pixels[:, -3:].mean() > 220
    (tmp_path / "upright.png").unlink()
    frames = [Image.new("RGB", (9, 9), c) for c in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert centre(tmp_path) == [255, 0, 0]


UPRIGHT = {  # what the orientation that a camera notes asks for: how many quarter turns to the left, and then a mirror
    1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_orientation_a_camera_can_note(tmp_path, orientation, suffix):
    corner = np.zeros((16, 16), np.uint8)
    corner[:8, :8], corner[:8, 8:] = 250, 120  # bright above on the left, grey above on the right
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corner).convert("RGB").save(tmp_path / f"picture.{suffix}", exif=exif)
    turns, mirrored = UPRIGHT[orientation]
    expected = np.rot90(corner, turns)
    expected = np.fliplr(expected) if mirrored else expected
    seen = read(tmp_path, 1, size=16).images[0, 0].numpy()
    assert all(abs(int(seen[y, x]) - int(expected[y, x])) < 25 for y in (3, 12) for x in (3, 12))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_in_tiff(tmp_path, order, channels):
    levels = np.full((9, 9, 3)[:2 + channels // 3], 257 * 120, np.uint16)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "deep.tif", levels, byteorder=order, photometric=kind)
    assert centre(tmp_path) == [120] * 3


@pytest.mark.parametrize("dtype, scale", [(np.uint8, 1), (np.uint16, 257)])
def test_a_tiff_in_which_zero_is_white(tmp_path, dtype, scale):
    tifffile.imwrite(tmp_path / "negative.tif", np.full((9, 9), 20 * scale, dtype), photometric="miniswhite")
    assert centre(tmp_path) == [235] * 3


@pytest.mark.skipif(os.name == "nt", reason="links, pipes and such names need rights on Windows, or cannot be had")
def test_links_pipes_and_names_that_are_no_text(tmp_path):
    pictures, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    for folder in (pictures / "a", elsewhere):
        folder.mkdir(parents=True)
        Image.new("RGB", (9, 9), RED).save(folder / "picture.png")
    os.symlink(elsewhere, pictures / "b")  # a class that lies somewhere else
    os.symlink(pictures, pictures / "a" / "back")  # a circle
    os.symlink(tmp_path / "gone.png", pictures / "a" / "broken.png")
    os.mkfifo(pictures / "a" / "pipe.png")
    os.rename(os.fsencode(pictures / "a" / "picture.png"), os.fsencode(pictures / "a") + b"/caf\xe9.png")
    for memory in (4, 0):
        found = read(pictures, memory=memory, max_skipped=0.5)
        assert found.classes == ["a", "b"] and found.labels.tolist() == [0, 1] and len(fingerprint(found)) == 64
        assert {path.rsplit("/", 1)[-1]: reason[:10] for path, reason in found.skipped} == {
            "broken.png": "not a file", "pipe.png": "not a file"}


def test_a_decoding_process_that_is_killed_costs_no_update(tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(pictures / f"{i:02d}.png")
    config = TrainConfig(data=str(pictures), out=str(tmp_path / "run"), memory=0, workers=1,
                         **{**TINY, "holdout": 0, "steps": 400, "save_every": 400})
    told = run_module._Metrics.write

    def write(self, more):  # as the system does where memory runs out
        told(self, more)
        for process in multiprocessing.active_children():
            process.kill()
    monkeypatch.setattr(run_module._Metrics, "write", write)
    with pytest.raises(UnreadableImage, match=r"a process that decodes images has died.*; the \d+ updates until then"):
        train(config, progress=False)
    assert len(checkpoints(tmp_path / "run")) == 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
def test_flipped_bits_end_in_a_picture_or_in_a_reason(tmp_path, suffix):
    chance, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(skimage_data.astronaut()[:64, :64]).save(folder / f"good.{suffix}")
    content = (folder / f"good.{suffix}").read_bytes()
    for i in range(40):  # half of them in the first bytes, where the sizes and kinds are written
        harmed = bytearray(content)
        harmed[chance.integers(0, 60 if i % 2 else len(harmed))] ^= 1 << chance.integers(0, 8)
        (folder / f"{i:02d}.{suffix}").write_bytes(harmed)
    found = read(folder, max_skipped=1.0)
    assert len(found) + len(found.skipped) == 41 and len(found) > 0
    assert all(reason for _, reason in found.skipped) and (found.skipped or suffix in ("bmp", "jpg"))


def png(path, side, bits, kind, pixels, *chunks):
    "A square PNG, byte by byte: `kind` 0 is grey, 2 RGB, 4 grey and alpha; `pixels` the rows, a zero before each."
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    header = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def bomb(path, side):
    "A PNG of a few bytes that says it is side x side pixels large."
    png(path, side, 8, 0, b"")


@pytest.mark.parametrize("kind, levels, transparent, expected", [
    (0, [99], None, (99, 99, 99)), (0, [99], 99, (255, 255, 255)), (0, [99], 98, (99, 99, 99)),
    (2, RED, None, RED), (4, [99, 255], None, (99, 99, 99)), (4, [99, 0], None, (255, 255, 255))])
def test_sixteen_bits_in_every_kind_of_png(tmp_path, kind, levels, transparent, expected):
    row = b"\0" + struct.pack(">" + "H" * len(levels), *(257 * level for level in levels)) * 9
    chunks = [] if transparent is None else [(b"tRNS", struct.pack(">H", 257 * transparent))]
    png(tmp_path / "deep.png", 9, 16, kind, 9 * row, *chunks)
    assert centre(tmp_path) == list(expected)


def damaged(folder):
    "Six files with the names of images that are none, and what the reason has to mention."
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "float.tif")
    bomb(folder / "huge.png", 20_000)
    bomb(folder / "large.png", 10_000)  # for which Pillow alone has a mere warning
    return {"zero.jpg": "cannot identify", "text.png": "cannot identify", "cut.jpg": "truncated",
            "float.tif": "no stated range", "huge.png": "Bomb", "large.png": "Bomb"}


def test_what_cannot_be_read_is_skipped_and_listed_with_its_reason(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (9, 9), RED).save(tmp_path / "deep" / "er" / f"{i}.png")
    reasons = damaged(tmp_path / "deep")
    (tmp_path / "labels.csv").write_text("a,b")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "deep" / "._0.png").write_bytes(b"what macOS leaves on other disks")
    found = read(tmp_path, max_skipped=0.55)
    assert len(found) == 5
    said = {path.rsplit("/", 1)[-1].rsplit("\\", 1)[-1]: reason for path, reason in found.skipped}
    assert said.keys() == reasons.keys() | {"labels.csv", ".DS_Store", "._0.png"}
    assert all(words in said[name] for name, words in reasons.items()), said
    assert "'.csv'" in said["labels.csv"] and "hidden" in said["._0.png"]
    with pytest.raises(ValueError, match="6 of 11 images cannot be read, expected at most 54%"):
        read(tmp_path, max_skipped=0.54)
    from_disk = read(tmp_path, max_skipped=0.55, memory=0, workers=2)
    assert from_disk.skipped == found.skipped and torch.equal(from_disk.images[torch.arange(5)], found.images)


def test_processes_find_the_same_images_in_the_same_order(tmp_path):
    "1,100 files: enough for processes, which hand over many at once; a whole part of them is damaged, and some others."
    bad = {0, 63, 64, 700, 1099, *range(128, 192)}
    for i in range(1100):
        folder = tmp_path / f"class {i % 3}"
        folder.mkdir(exist_ok=True)
        if i in bad:
            (folder / f"{i:04d}.png").write_bytes(b"\x89PNG\r\n")
        else:
            Image.new("L", (2, 2), i % 256).save(folder / f"{i:04d}.png")
    alone, helped, streamed = (read(tmp_path, 1, size=2, memory=memory, workers=workers)
                               for memory, workers in ((4.0, 0), (4.0, 2), (0, 2)))
    names = [int(path.rsplit(".", 1)[0][-4:]) for path, _ in alone.skipped]
    assert set(names) == bad and len(alone) == 1100 - len(bad)
    expected = [i % 256 for c in range(3) for i in range(c, 1100, 3) if i not in bad]
    assert alone.images[:, 0, 0, 0].tolist() == expected
    for other in (helped, streamed):
        assert other.skipped == alone.skipped and torch.equal(other.labels, alone.labels)
        assert torch.equal(other.images[torch.arange(len(alone))], alone.images)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
def test_a_file_that_ends_too_early(tmp_path, suffix):
    photograph = Image.fromarray(skimage_data.astronaut()[:96, :96])
    photograph.save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / f"cut at {share}.{suffix}").write_bytes(content[:int(share * len(content))])
    found = read(tmp_path, max_skipped=0.75)
    assert len(found) == 1 and len(found.skipped) == 3 and all(reason for _, reason in found.skipped)


def test_only_damaged_files(tmp_path):
    damaged(tmp_path)
    with pytest.raises(ValueError, match="6 of 6 images cannot be read"):
        read(tmp_path, max_skipped=1.0)


def test_flat_nested_and_mixed_folders(tmp_path):
    for path in ("a/x/1.png", "a/y/2.png", "b/3.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), int(path[-5])).save(tmp_path / path)
    nested = read(tmp_path, 1)
    assert nested.classes == ["a", "b"] and nested.labels.tolist() == [0, 0, 1]
    assert nested.images[:, 0, 0, 0].tolist() == [1, 2, 3]  # in sorted order, so that a seed means the same everywhere
    Image.new("L", (9, 9), 9).save(tmp_path / "z.png")
    assert read(tmp_path, 1).classes is None  # one image without a class: no classes


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    "Real colour photographs, cut into pieces of different shape, in ten formats and modes, with some broken files."
    folder = tmp_path_factory.mktemp("photographs")
    formats = [("png", "RGB"), ("jpg", "RGB"), ("webp", "RGB"), ("bmp", "RGB"), ("tif", "RGB"), ("gif", "P"),
               ("png", "RGBA"), ("jpg", "CMYK"), ("png", "P"), ("jpeg", "L")]
    count = 0
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photograph = Image.fromarray(getattr(skimage_data, name)())
        (folder / name).mkdir()
        for k in range(6):
            suffix, mode = formats[count % len(formats)]
            piece = photograph.crop((30 * k, 20 * k, 30 * k + 200, 20 * k + 150 + 10 * k)).convert(mode)
            piece.save(folder / name / f"{k}.{suffix}")
            count += 1
    (folder / "coffee" / "zero.jpg").write_bytes(b"")
    (folder / "coffee" / "notes.txt").write_text("how these were made")
    return folder


TINY = {"image_size": 16, "channels": 3, "flip": True, "base_channels": 8, "groups": 4, "channel_mults": (1, 2),
        "num_timesteps": 20, "batch_size": 6, "steps": 6, "warmup": 1, "save_every": 3, "log_every": 2, "previews": 2,
        "samples": 4, "sample_steps": 2, "holdout": 0.2, "device": "cpu"}


def last_weights(run):
    return load_pretrained(run).model.state_dict()


def test_a_run_on_photographs_of_mixed_formats_from_memory_and_from_disk(photographs, tmp_path):
    in_memory = train(TrainConfig(data=str(photographs), out=str(tmp_path / "memory"), **TINY), progress=False)
    described = json.loads((in_memory.folder / "data.json").read_text())
    assert (described["images"], described["held_out"]) == (20, 4)  # 24 photographs, a fifth of them held out
    assert described["classes"] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert [s["file"].endswith(("zero.jpg", "notes.txt")) for s in described["skipped"]] == [True, True]
    assert all(s["reason"] for s in described["skipped"])
    assert Image.open(in_memory.folder / "samples.png").mode == "RGB"
    assert all("validation_loss" in row for row in in_memory.metrics if row["step"] in (3, 6))
    streamed = train(TrainConfig(data=str(photographs), out=str(tmp_path / "disk"), memory=0, **TINY), progress=False)
    a, b = last_weights(in_memory.folder), last_weights(streamed.folder)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_folder_that_changed_is_not_resumed(photographs, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(folder / f"{i}.png")
    options = {**TINY, "data": str(folder), "out": str(tmp_path / "run"), "holdout": 0, "batch_size": 2}
    train(TrainConfig(**options), progress=False)
    Image.new("RGB", (16, 16)).save(folder / "5.png")
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "have changed since the run was begun (4 then, 5 now)" in capsys.readouterr().err


def test_memory_and_disk_give_the_same_batches_for_the_same_seed(photographs):
    held, streamed = (hold_out(read(photographs, size=16, memory=memory), 0.2, seed=3)[0] for memory in (4, 0))
    assert isinstance(streamed.images, ImageFiles) and not isinstance(held.images, ImageFiles)
    indices = [torch.tensor([3, 1, 1]), torch.tensor([0]), torch.tensor([18, 5])] * 3
    before = torch.random.get_rng_state()
    for workers in (0, 2):
        pairs = list(zip(batches(held, indices), batches(streamed, indices, workers=workers), strict=True))
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs) and len(pairs) == 9
    assert torch.equal(before, torch.random.get_rng_state())
    assert fingerprint(streamed) == fingerprint(hold_out(read(photographs, size=16, memory=0), 0.2, seed=3)[0])
    assert fingerprint(streamed) != fingerprint(hold_out(read(photographs, size=16, memory=0), 0.2, seed=4)[0])


@pytest.mark.parametrize("pictures", ["one", "fewer than a batch", "all the same"])
def test_few_or_equal_images(tmp_path, pictures):
    (tmp_path / "pictures").mkdir()
    for i in range({"one": 1, "fewer than a batch": 3, "all the same": 12}[pictures]):
        colour = RED if pictures == "all the same" else (80 * i, 10, 200)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "pictures" / f"{i}.png")
    run = train(TrainConfig(data=str(tmp_path / "pictures"), out=str(tmp_path / "run"), **TINY), progress=False)
    assert run.finished and (run.folder / "samples.png").exists() and checkpoints(run.folder)
    assert all(np.isfinite(row["loss"]) for row in run.metrics)


def test_named_data_sets_are_read_and_never_downloaded_unasked(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(12 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(12, 28, 28)
    for part, n in (("train", 12), ("t10k", 5)):  # MNIST's own format
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + pixels[:n].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + bytes(i % 10 for i in range(n)))
    found = load_images("mnist", image_size=28, channels=1, root=tmp_path)
    assert np.array_equal(found.images[:, 0], pixels) and found.labels.tolist() == [i % 10 for i in range(12)]
    assert len(found.classes) == 10
    assert len(load_images("mnist", image_size=28, channels=1, root=tmp_path, split="test")) == 5
    from_disk = load_images("mnist", image_size=28, channels=1, root=tmp_path, memory=0)
    assert torch.equal(from_disk.images[torch.arange(12)], found.images)

    asked = []

    class Pretend(torch.utils.data.Dataset):
        "Stands for a data set of torchvision, and remembers whether it was told to download."
        def __init__(self, root, download=False, **split):
            asked.append((download, split))

        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i >= 3:
                raise IndexError
            return Image.new("RGB", (9, 9), RED), i

    for name, (cls, _) in images_module.NAMED_DATASETS.items():
        real = inspect.signature(getattr(torchvision.datasets, cls))
        monkeypatch.setattr(torchvision.datasets, cls, Pretend)
        assert len(load_images(name, image_size=8, channels=3, root=tmp_path)) == 3
        load_images(name, image_size=8, channels=3, root=tmp_path, download=True, split="test")
        (told, train_part), (told_too, test_part) = asked[-2:]
        assert (told, told_too) == (False, True) and train_part != test_part
        for part in (train_part, test_part):
            real.bind(tmp_path, **part)  # torchvision's own class would understand it
    assert len(asked) == 2 * 6
    assert not TrainConfig(data="mnist").flip and not TrainConfig().flip


def colours(n, side):
    "`n` images, each of one colour that says its number."
    return [Image.new("RGB", (side, side), (10 * i, 100, 200)) for i in range(n)]


def cifar(root, labels, files):
    "CIFAR's own format: pickled rows of 3 x 32 x 32 bytes, red first."
    root.mkdir()
    for name, part in files.items():
        rows = [np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in part]
        (root / name).write_bytes(pickle.dumps({"data": np.array(rows), labels: list(range(len(part)))}))
    return root


def write_cifar10(root):
    folder = cifar(root / "cifar-10-batches-py", "labels", {
        **{f"data_batch_{i}": colours(2, 32) for i in range(1, 6)}, "test_batch": colours(3, 32)})
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abc")}))
    return [0, 1] * 5, ["a", "b", "c"]


def write_cifar100(root):
    folder = cifar(root / "cifar-100-python", "fine_labels", {"train": colours(4, 32), "test": colours(3, 32)})
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list("abcd")}))
    return [0, 1, 2, 3], ["a", "b", "c", "d"]


def write_fashion_mnist(root):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 4), ("t10k", 3)):
        pixels = np.repeat(np.arange(n, dtype=np.uint8), 28 * 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + bytes(range(n)))
    return [0, 1, 2, 3], torchvision.datasets.FashionMNIST.classes


def write_flowers102(root):
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i, image in enumerate(colours(7, 40), 1):
        image.save(folder / "jpg" / f"image_{i:05d}.jpg", quality=100, subsampling=0)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [[5, 6, 7, 8, 9, 10, 11]]})  # counted from 1
    scipy.io.savemat(folder / "setid.mat", {"trnid": [[1, 2, 3, 4]], "valid": [[0, 0]], "tstid": [[5, 6, 7]]})
    return [4, 5, 6, 7], None


def write_celeba(root):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 8)]
    for name, image in zip(names, colours(7, 40)):
        image.save(folder / "img_align_celeba" / name, quality=100, subsampling=0)
    rows = {"list_eval_partition": [f"{n} {0 if i < 4 else 2}" for i, n in enumerate(names)],
            "identity_CelebA": [f"{n} 1" for n in names],
            "list_bbox_celeba": ["7", "image_id x y w h"] + [f"{n} 1 2 3 4" for n in names],
            "list_landmarks_align_celeba": ["7", "x y"] + [f"{n} 1 2" for n in names],
            "list_attr_celeba": ["7", "Smiling Young"] + [f"{n} 1 -1" for n in names]}
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return None, None


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100", "flowers102", "celeba"])
def test_the_named_sets_in_the_formats_they_come_in(tmp_path, monkeypatch, name):
    labels, classes = globals()[f"write_{name.replace('-', '_')}"](tmp_path)
    for module in (torchvision.datasets.cifar, torchvision.datasets.flowers102, torchvision.datasets.celeba):
        monkeypatch.setattr(module, "check_integrity", lambda *args: True)  # ours are far smaller than the real ones
    for memory in (4, 0):
        train_part, test_part = (load_images(name, image_size=8, channels=3, root=tmp_path, split=split, memory=memory)
                                 for split in ("train", "test"))
        seen = train_part.batch(torch.arange(len(train_part)))[0][:, 0, 4, 4]
        assert len(test_part) == 3 and len(train_part) == (10 if name == "cifar10" else 4)
        red = [(1 if name == "fashion-mnist" else 10) * i for i in ([0, 1] * 5 if name == "cifar10" else range(4))]
        assert np.abs((seen.numpy() + 1) * 127.5 - red).max() < 2.5  # JPEG is not exact
        assert train_part.classes == classes if classes else name == "flowers102" or train_part.classes is None
        assert (None if train_part.labels is None else train_part.labels.tolist()) == labels


def test_forty_labels_an_image_are_no_class(tmp_path, monkeypatch):

    class Faces(torch.utils.data.Dataset):
        def __init__(self, root, download=False, **split):
            pass

        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i >= 3:
                raise IndexError
            return Image.new("RGB", (9, 9), RED), torch.ones(40, dtype=torch.int64)  # smiling, glasses, ...
    monkeypatch.setattr(torchvision.datasets, "CelebA", Faces)
    for memory in (4, 0):
        found = load_images("celeba", image_size=8, channels=3, root=tmp_path, memory=memory)
        assert found.classes is None and found.labels is None
        x0, y = found.batch(torch.tensor([2, 0]))
        assert x0.shape == (2, 3, 8, 8) and y is None


def test_a_damaged_image_in_a_named_data_set_is_skipped_and_its_number_told(tmp_path, monkeypatch):

    class Pretend:
        def __init__(self, root, download=False, **split):
            pass

        def __len__(self):
            return 4

        def __getitem__(self, i):
            if i == 1:
                raise OSError("image file is truncated")
            return Image.new("RGB", (9, 9), RED), 0

    monkeypatch.setattr(torchvision.datasets, "CelebA", Pretend)
    found = load_images("celeba", image_size=8, channels=3, root=tmp_path, max_skipped=0.25)
    assert len(found) == 3 and found.skipped == [("image 1", "OSError: image file is truncated")]
    with pytest.raises(ValueError, match="1 of 4 images cannot be read.*image 1: OSError"):
        load_images("celeba", image_size=8, channels=3, root=tmp_path, max_skipped=0.2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_during_a_run_is_named_and_what_was_trained_is_saved(tmp_path, monkeypatch, workers):
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(folder / f"{i:02d}.png")
    config = TrainConfig(data=str(folder), out=str(out), memory=0, workers=workers,
                         **{**TINY, "holdout": 0, "steps": 60})
    told = run_module._Metrics.write
    def write(self, more):  # the first line of the metrics: update 2
        told(self, more)
        (folder / "07.png").unlink(missing_ok=True)
    monkeypatch.setattr(run_module._Metrics, "write", write)
    with pytest.raises(UnreadableImage, match=r"07\.png could be read before and cannot be read now: FileNotFoundError"
                                              r"(?s:.*); the \d+ updates until then are saved in") as failed:
        train(config, progress=False)
    assert "Traceback" not in str(failed.value)
    step = int(str(failed.value).split("; the ")[1].split()[0])
    assert step >= 2 and checkpoints(out)[0].name == f"step-{step:08d}"
    monkeypatch.undo()
    Image.new("RGB", (16, 16), (140, 0, 0)).save(folder / "07.png")
    assert train(dataclasses.replace(config, resume=True), progress=False).finished


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that can be sent to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_processes_that_decode_images_outlive_a_signal(photographs, number):
    streamed = batches(read(photographs, memory=0), [torch.tensor([i % 20]) for i in range(100)], workers=2)
    next(streamed), next(streamed)  # one from each process: both are at work
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    assert len(list(streamed)) == 98


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_the_death_of_a_process_is_not_announced_in_the_middle_of_an_update(photographs, monkeypatch):
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)  # torch sets it once
    streamed = batches(read(photographs, memory=0), [torch.tensor([i]) for i in range(4)], workers=1)
    try:
        next(streamed)
        assert signal.getsignal(signal.SIGCHLD) is before
        assert len(list(streamed)) == 3
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_file_that_vanishes_before_the_first_update(tmp_path, monkeypatch):
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(folder / f"{i}.png")
    config = TrainConfig(data=str(folder), out=str(out), memory=0, workers=0, **{**TINY, "holdout": 0})
    real = run_module._begin

    def begin(*args):
        begun = real(*args)
        (folder / "2.png").unlink()
        return begun
    monkeypatch.setattr(run_module, "_begin", begin)
    with pytest.raises(UnreadableImage, match=r"2\.png could be read before") as failed:
        train(config, progress=False)
    assert "saved" not in str(failed.value) and not checkpoints(out)  # there is nothing to save, and nothing is claimed
    monkeypatch.undo()
    Image.new("RGB", (16, 16), (40, 0, 0)).save(folder / "2.png")
    assert train(dataclasses.replace(config, resume=True), progress=False).finished


def test_the_settings_of_a_run_reach_the_images(monkeypatch):
    asked = {}
    monkeypatch.setattr(run_images, "load_images", lambda name, **options: asked.update(options) or load_digits())
    run_images.load_data(TrainConfig(data="somewhere", image_size=20, channels=3, download=True, workers=5,
                                     max_skipped=0.3, background=7, memory=1.5))
    assert asked == {"image_size": 20, "channels": 3, "download": True, "workers": 5, "max_skipped": 0.3,
                     "background": 7, "memory": 1.5}


def test_the_program_trains_on_a_named_set_and_downloads_only_when_asked(tmp_path, monkeypatch, capsys):
    asked = []

    class Pretend(torch.utils.data.Dataset):
        data = np.random.default_rng(0).integers(0, 255, (12, 28, 28), np.uint8)

        def __init__(self, root, download=False, **split):
            asked.append(download)
            if not download:
                raise RuntimeError("Dataset not found.")
            self.classes = [str(i) for i in range(10)]

        def __len__(self):
            return 12

        def __getitem__(self, i):
            return Image.fromarray(self.data[i]), i % 10
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Pretend)
    options = ["--image-size", "8", "--base-channels", "8", "--groups", "4", "--channel-mults", "1",
               "--batch-size", "4", "--steps", "2", "--num-timesteps", "10", "--samples", "1", "--sample-steps", "1",
               "--device", "cpu"]
    command = ["train", "--data", "fashion-mnist", "--out", str(tmp_path / "run"), *options]
    assert main(command) == 2 and "--download" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*command, "--download"]) == 0 and asked == [False, True, True]
    assert json.loads((tmp_path / "run" / "data.json").read_text())["images"] == 12


def test_the_program_says_how_many_files_were_left_out(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()
               if name not in ("channel_mults", "flip", "holdout")]
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "pictures"), "--max-skipped", "0.2", "--out", run, *options]) == 0
    assert "files left out: 1; " in (said := capsys.readouterr().out) and "data.json" in said
    assert main(["info", run]) == 0 and "files left out: 1\n" in capsys.readouterr().out


def test_a_named_data_set_that_is_not_there(tmp_path, monkeypatch):
    for name in ("cifar10", "cifar100", "mnist", "fashion-mnist"):
        with pytest.raises(ValueError, match="download=True"):
            load_images(name, image_size=8, channels=3, root=tmp_path)

    def needs_scipy(*args, **options):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
    monkeypatch.setattr(torchvision.datasets, "Flowers102", needs_scipy)
    with pytest.raises(ValueError, match="pip install scipy"):
        load_images("flowers102", image_size=8, channels=3, root=tmp_path)

    def offline(*args, **options):
        raise RuntimeError("Error downloading")
    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(ValueError, match="the download failed: Error downloading"):
        load_images("mnist", image_size=8, channels=3, root=tmp_path, download=True)
