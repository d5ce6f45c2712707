"""Image files as 8-bit tensors: every format and mode, what cannot be read and why, sets too large for memory."""
import contextlib
import gzip
import hashlib
import io
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .arguments import check_number


def read_idx(path) -> Tensor:
    "MNIST's own format: two zero bytes, the type (8 = unsigned byte), the number of dimensions, the sizes, the bytes."
    raw = gzip.decompress(path.read_bytes())
    ndim = raw[3]
    shape = np.frombuffer(raw, ">u4", count=ndim, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy())


def read_sheet(path, side: int, n: int) -> Tensor:
    "The first `n` of the square pictures that lie on one large picture like words on a page: uint8 (n, 3, side, side)."
    with Image.open(io.BytesIO(path.read_bytes())) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB")))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    pictures = pixels.reshape(rows, side, columns, side, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
    return pictures[:n].contiguous()


def to_8_bit(image: Image.Image, channels: int, background: int = 255) -> Image.Image:
    "Any Pillow image as 8-bit grey or RGB: EXIF rotation applied, transparency laid on `background`, 16 bits scaled."
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0  # in a TIFF; Pillow heeds it for 8 bits, not for 16
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and not 0 <= image.getextrema()[0] <= image.getextrema()[1] < 2**16):
        raise ValueError(f"pixels of type {image.mode!r} have no stated range, expected 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own convert() would cut it off at 255
        levels, clear = np.asarray(image, np.float64), image.info.get("transparency")
        levels = 65535 - levels if white_is_zero else levels
        image = Image.fromarray((levels / 257).round().astype(np.uint8))
        if clear is not None:  # one level of grey that stands for "nothing here"
            image.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (background,) * 3 + (255,)), image)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int) -> np.ndarray:
    "Scale the shorter side to `size` (bicubic, with antialiasing), cut the middle square: uint8 (C, size, size)."
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def refit(images: Tensor, size: int, channels: int, name: str) -> Tensor:
    "The data set `name`, uint8 (N, C, H, W) in memory, in another size and, with a warning, number of channels."
    if (own := images.shape[1]) != channels:
        warnings.warn(f"channels is {channels}, and {name!r} has {own}: " + (
            "a model of grey pictures in RGB learns to tint them" if own == 1 else "its colours become grey"),
            stacklevel=3)
    if images.shape[1:] == (channels, size, size):
        return images
    pictures = (Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()) for image in images)
    return torch.from_numpy(np.stack([fit(to_8_bit(picture, channels), size) for picture in pictures]))


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tiff", ".tif", ".webp", ".gif",
                  *([".avif"] if features.check("avif") else []))

OTHER_IMAGE_SUFFIXES = (  # images, too: where many of them are left out, somebody should know
    ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr", ".svg", ".svgz", ".eps", ".ai",
    ".psd", ".psb", ".xcf", ".kra", ".tga", ".dds", ".exr", ".hdr", ".ico", ".icns", ".pcx", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".qoi", ".apng", ".dib", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
    ".dcm")


MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")  # how PNG, JPEG, GIF and TIFF begin


def _begins_as_image(path: Path) -> bool:
    "Whether a file is an image that is read here, by its first bytes: downloads often lack the ending, or have two."
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(MAGIC) or start[:4] == b"RIFF" and start[8:] == b"WEBP"


def natural(name: str) -> tuple:
    "A sort key by which class 2 comes before class 10."
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))], name


def _below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    "Everything below a folder but the folders, also behind links; with a reason for what cannot be looked into."
    here = os.path.realpath(folder)
    if here in above:  # a link that leads back up
        return
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        if not above:
            raise ValueError(f"data is {str(folder)!r}, expected a folder that can be read: {error}") from error
        yield folder, f"a folder that cannot be read: {error.strerror or error}"
        return
    for path in paths:
        if os.path.isdir(path):
            yield from _below(path, (*above, here))
        else:
            yield path, "" if os.path.isfile(path) else "not a file: a link that leads nowhere, a pipe, ..."


def open_folder(folder: Path) -> tuple[list[tuple[Path, int]], list[str] | None, list, list]:
    """
    The images in a folder: (path, label) for each, sorted by path; class names, if all lie in sub-folders, or None.

    Then the images that are not read, and what else there is, as (path, reason). Classes are numbered in natural order;
    files stay in plain order, because a run that was begun names its images by their places in it.
    """
    paths, unread, others = [], [], []
    for path, problem in sorted(_below(folder), key=lambda found: found[0].relative_to(folder).parts):
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            others.append((str(path), "a hidden file"))
        elif suffix not in IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES and (problem or not _begins_as_image(path)):
            others.append((str(path), problem or f"not an image, by its name: it ends in {path.suffix!r}"))
        elif problem or suffix not in IMAGE_SUFFIXES:
            kind = "of a kind that is not read" if suffix in OTHER_IMAGE_SUFFIXES else "with another ending"
            unread.append((str(path), problem or f"an image {kind}: it ends in {path.suffix!r}"))
        else:
            paths.append(path)
    if not paths:
        left = f"; there are {len(unread)} others, the first: {unread[0][0]}: {unread[0][1]}" if unread else ""
        raise ValueError(f"no images in {str(folder)!r}, expected files ending in {' '.join(IMAGE_SUFFIXES)}{left}")
    parts = [p.relative_to(folder).parts for p in paths]
    nested = all(len(part) > 1 for part in parts)
    classes = sorted({part[0] for part in parts}, key=natural) if nested else []
    number = {name: i for i, name in enumerate(classes)}
    return [(path, number.get(part[0], 0)) for path, part in zip(paths, parts)], classes or None, unread, others


NAMED_DATASETS = {  # name: (class in torchvision.datasets, how it names its splits)
    "mnist": ("MNIST", {"train": {"train": True}, "test": {"train": False}}),
    "fashion-mnist": ("FashionMNIST", {"train": {"train": True}, "test": {"train": False}}),
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}),
    "flowers102": ("Flowers102", {"train": {"split": "train"}, "test": {"split": "test"}}),
    "celeba": ("CelebA", {"train": {"split": "train"}, "test": {"split": "test"}}),
}


def open_named(name: str, split: str, root: str | Path, download: bool):
    "torchvision's data set, whose items are (Pillow image, label)."
    import torchvision.datasets  # here, because importing it takes a second and the bundled digits do not need it
    cls, splits = NAMED_DATASETS[name]
    try:
        return getattr(torchvision.datasets, cls)(root, **splits[split], download=download)
    except RuntimeError as error:
        how = (f"the download failed: {error}" if download else
               "to download it say download=True (on the command line: --download)")
        raise ValueError(f"data set {name!r} is not in {str(root)!r}; {how}") from error
    except ModuleNotFoundError as error:  # Flowers102 needs scipy, the download of CelebA gdown
        raise ValueError(f"data set {name!r} needs a package that is missing: pip install {error.name}") from error


def open_source(name_or_folder: str | Path, split: str, root: str | Path, download: bool, bundled=()) -> tuple:
    "What `open_folder` gives, of a folder or of a named data set. `bundled`: other names, for the message."
    if name_or_folder in NAMED_DATASETS:
        source = open_named(name_or_folder, split, root, download)
        return source, getattr(source, "classes", None), [], []
    if not os.path.isdir(name_or_folder):
        raise ValueError(f"data is {str(name_or_folder)!r}, expected a folder of images or one of: "
                         + ", ".join([*bundled, *NAMED_DATASETS]))
    return open_folder(Path(name_or_folder))


def say_if_shadowed(name_or_folder: str | Path, names: Iterable[str]) -> None:
    "A warning where a folder has the name of a data set: it is the data set that is meant, and not the folder."
    if name_or_folder in names and os.path.isdir(name_or_folder):
        warnings.warn(f"data is {name_or_folder!r}, the data set of that name; a folder here has that name, too; "
                      f"for its images say './{name_or_folder}'", stacklevel=3)


class UnreadableImage(ValueError):
    "An image of an `ImageFiles` that could be read when the set was opened, and cannot be read now."


class ImageFiles:
    """
    Stands where a data set in memory has its uint8 tensor (N, C, S, S), and decodes images when they are asked for.

    `source[i]` is an image, as a path or a Pillow image, and its label; `index` says which of them are in the set.
    `folder`: the one that the paths lie in.
    """
    dtype, ndim, device = torch.uint8, 4, torch.device("cpu")

    def __init__(self, source, index: Tensor, image_size: int, channels: int, background: int = 255,
                 folder: str | Path = ""):
        self.source, self.index, self.size, self.channels = source, index, image_size, channels
        self.background, self.folder = check_number("background", background, 0, 255, whole=True), Path(folder)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.index), self.channels, self.size, self.size))

    def decode(self, i: int) -> tuple[Tensor, int]:
        "Number `i` of this set as uint8 (C, S, S), and its label. A file that unpacks to gigabytes is refused."
        image, label = self.source[int(self.index[i])]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(image) if isinstance(image, Path) else image as opened:
                pixels = fit(to_8_bit(opened, self.channels, self.background), self.size)
        return torch.from_numpy(pixels.copy()), int(label) if isinstance(label, (int, np.integer)) else 0  # CelebA: 40

    def name(self, i: int) -> str:
        "The file of number `i` of this set, or in a set without files its number there."
        at = int(self.index[i])
        return str(self.source[at][0]) if isinstance(self.source, list) else f"image {at}"

    def __getitem__(self, i) -> Tensor:
        if isinstance(i, Tensor) and i.ndim:
            return torch.stack([self[j] for j in i.tolist()])
        try:
            return self.decode(int(i))[0]
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise UnreadableImage(f"{self.name(int(i))} could be read before and cannot be read now: "
                                  f"{type(error).__name__}: {error}") from error

    def subset(self, index: Tensor) -> "ImageFiles":
        "The images at `index` of this set, as a set of their own."
        return ImageFiles(self.source, self.index[index], self.size, self.channels, self.background, self.folder)


class _Call(Dataset):
    "Item `i` is what `function(i)` answers: work that a DataLoader can hand to its processes."
    def __init__(self, function):
        self.function = function

    def __getitem__(self, i):
        try:
            return self.function(i)
        except UnreadableImage as error:
            return error  # raised by the loader, it would come with a page of traceback in its message


@contextlib.contextmanager
def _own_sigchld():
    "Where a process dies, torch would raise an error wherever we are, also in the middle of an update. It can wait."
    own = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if own else None
    yield
    if own and before is not None:
        signal.signal(signal.SIGCHLD, before)


def _in_processes(function, order: Iterable, workers: int) -> Iterator:
    "`function(i)` for each `i` of `order`, computed ahead by `workers` processes. Nobody's random state moves."
    with _own_sigchld():
        loader = iter(DataLoader(_Call(function), sampler=order, batch_size=None, num_workers=workers,
                                 generator=torch.Generator(), worker_init_fn=_outlive_signals))
    try:
        for answer in loader:
            if isinstance(answer, UnreadableImage):
                raise answer
            yield answer
    except (RuntimeError, OSError, EOFError) as error:  # a bad image comes as an answer
        last = str(error).strip().rpartition("\n")[2]
        raise UnreadableImage("a process that decodes images has died, perhaps for want of memory, or of "
                              "`if __name__ == \"__main__\":` in the script: "
                              f"{type(error).__name__}: {last}") from error
    finally:
        del loader  # its processes end now, and not when somebody lets go of the traceback


def _outlive_signals(worker: int) -> None:
    "Signals may go to every process of a terminal or a job: the main one decides when to stop."
    for name in {"SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))  # by then it has; Python waits for them when it ends


def batches(data, indices: Iterable[Tensor], *, workers: int = 0) -> Iterator:
    "`data.batch(index)` for each of `indices`, in order; images in files are decoded ahead by `workers` processes."
    return map(data.batch, indices) if isinstance(data.images, Tensor) else _in_processes(data.batch, indices, workers)


def _attempt(files: ImageFiles, keep: bool, rows: Iterable[int]) -> tuple[Tensor | None, list[tuple[int, str]]]:
    "The images at `rows` that can be read, as one tensor, if they are to `keep`; each row's label and what is wrong."
    images, told = [], []
    for i in rows:
        try:
            image, label = files.decode(i)
            images += [image] if keep else []
            told.append((label, ""))
        except Exception as error:  # Pillow raises many kinds on damaged files; each is listed, none is lost
            told.append((0, f"{type(error).__name__}: {error}"))
    return torch.stack(images) if images else None, told


def warn_of_lost_classes(classes, before: Iterable[int], after: Iterable[int], why: str) -> None:
    "A warning that names the classes which had images `before` and have none `after`."
    if classes and (lost := sorted(set(before) - set(after))):
        names = ", ".join(repr(classes[label]) for label in lost[:5]) + ", ..." * (len(lost) > 5)
        warnings.warn(f"{len(lost)} of {len(classes)} classes have no image left to train on, because {why}: {names}",
                      stacklevel=3)


def read_all(files: ImageFiles, classes, unread, others, max_skipped: float, memory: float, workers: int) -> tuple:
    """
    Decode every image once: to know which cannot be read, and to hold the pixels where they fit into `memory` GiB.

    `unread`, `others`: as `open_folder` gives them. Returns images (uint8 (N, C, S, S), or the files), labels int64
    (N,) or None, class names or None, and what was left out, as (path, reason). `ValueError` where the images that
    cannot be read, `unread` among them, are more than the share `max_skipped` of all.
    """
    check_number("max_skipped", max_skipped, 0, 1)
    keep = files.shape.numel() <= check_number("memory", memory, 0) * 2**30
    n = files.shape[0]
    workers = check_number("workers", workers, 0, whole=True) if n >= 1000 else 0  # a few hundred are decoded sooner
    pixels = torch.empty(files.shape if keep else (0,), dtype=torch.uint8)
    good, labels, skipped = [], [], list(unread)
    at_once = max(1, min(64, 2**20 // files.shape[1:].numel()))  # one by one, small images cost 17 times as much
    parts = [range(i, min(i + at_once, n)) for i in range(0, n, at_once)]
    for rows, (images, told) in zip(parts, _in_processes(partial(_attempt, files, keep), parts, workers)):
        if images is not None:
            pixels[len(good):len(good) + len(images)] = images
        for i, (label, problem) in zip(rows, told):
            if problem:
                skipped.append((files.name(i), problem))
            else:
                good.append(i)
                labels.append(label)
    if len(skipped) > max_skipped * (n + len(unread)) or not good:
        raise ValueError(f"{len(skipped)} of {n + len(unread)} images cannot be read, expected at most "
                         f"{max_skipped:.0%}; the first: {skipped[0][0]}: {skipped[0][1]}")
    if classes is None and max(labels):  # a data set with labels and no names for them
        classes = [str(c) for c in range(max(labels) + 1)]
    if isinstance(files.source, list):
        warn_of_lost_classes(classes, (label for _, label in files.source), labels, "none of theirs can be read")
    images = pixels[:len(good)] if keep else files.subset(torch.tensor(good))
    return images, torch.tensor(labels) if classes else None, classes, skipped + others


def _digest(data, contents: Iterable) -> str:
    found = hashlib.sha256(repr(tuple(data.images.shape)).encode())
    for content in contents:
        found.update(content)
    if data.labels is not None:
        found.update(data.labels.numpy())
    return found.hexdigest()


def pixel_fingerprint(data) -> str:
    "SHA-256 sum of pixels and labels, the same for images in memory and in files, which are decoded for it."
    return _digest(data, (data.images[i].contiguous().numpy() for i in range(len(data))))


def fingerprints(data) -> list[str]:
    """
    SHA-256 sums that change where an image or a label does: today's form, and then those that older runs have kept.

    Of images in memory it sees the pixels; of images in files the names below their folder, and the sizes. It does not
    depend on where the folder lies, how it is called or how its path was written. (The older form saw the name of the
    folder that an image lies in.)
    """
    if isinstance(data.images, Tensor):
        return [pixel_fingerprint(data)]
    source, folder = data.images.source, data.images.folder
    paths = [source[i][0] for i in data.images.index.tolist()] if isinstance(source, list) else []
    sizes = [p.stat().st_size for p in paths]
    lists = ("".join(f"{name(p)} {size}\n" for p, size in zip(paths, sizes))
             for name in (lambda p: p.relative_to(folder).as_posix(), lambda p: f"{p.parent.name}/{p.name}"))
    return list(dict.fromkeys(_digest(data, [listed.encode(errors="surrogateescape")]) for listed in lists))


def fingerprint(data) -> str:
    "Today's form of `fingerprints`."
    return fingerprints(data)[0]
