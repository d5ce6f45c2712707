"""Write files whole or not at all, know them by their fingerprint, and read weights without running code."""
import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

MANIFEST = "config.json"


@contextlib.contextmanager
def _naming(path: Path):
    "An `OSError` from within names the file: Python does so where it cannot be opened, not where a write fails."
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # how network and FUSE disks say it
NO_FOLDER = (errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)  # and that a folder cannot be opened


def _sync(handle: int) -> None:
    "Flush to the disk, where the disk offers that."
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise


def _sync_folder(folder: Path) -> None:
    "Make a rename survive a power cut, where the disk offers that. Windows cannot open folders, and does it by itself."
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            with _naming(folder):
                _sync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH + NO_FOLDER:
            raise


def _through_link(path: str | Path) -> Path:
    "The path itself, or what it leads to where it is a symbolic link: a link stays, and its target is written."
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def write_atomic(path: str | Path, content: bytes) -> None:
    """
    Write a file so that a reader, also after a crash, finds the old content or the new, never a part.

    The bytes go to a temporary file in the same folder, are flushed to the disk and renamed onto `path`; where that is
    a symbolic link, onto what it leads to. `OSError` that names the file where the disk refuses.
    """
    path = _through_link(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                _sync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def append_line(path: str | Path, line: str) -> None:
    """
    Add a line to a text file. A crash may leave a part of it. `OSError` that names the file where the disk refuses.

    Bytes of a file's name that are no UTF-8 are written as `\\udce9`, as JSON writes them.
    """
    with _naming(Path(path)), open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line + "\n")


def write_json(path: str | Path, content: Mapping) -> None:
    "Write a JSON file atomically."
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: str | Path, max_bytes: int = 100_000_000) -> dict:
    "Read a JSON file. `ValueError` that names the file where it is missing, broken, or larger than `max_bytes`."
    if not Path(path).is_file():
        raise ValueError(f"{str(path)!r} does not exist")
    if (size := os.path.getsize(path)) > max_bytes:
        raise ValueError(f"{str(path)!r} has {size:,} bytes, expected at most {max_bytes:,}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits; nested too deep
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, expected a JSON object")
    return content


def sha256(content: bytes) -> str:
    "The SHA-256 fingerprint of some bytes, in hexadecimal."
    return hashlib.sha256(content).hexdigest()


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    "Named tensors in the safetensors format, with a few words about them in the file's header where given."
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def tensors_from_bytes(content: bytes, source: str) -> dict[str, Tensor]:
    "Read safetensors; `ValueError` that names `source` for anything else, such as a pickle. No code is run."
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source} is not a valid safetensors file: {error}") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    "`ValueError` unless both have the same names, shapes and kinds of numbers, and all numbers found are finite."
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{source} lacks {len(missing)} tensors, the first: {missing[0]!r}")
    if extra := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{source} has {len(extra)} tensors too many, the first: {extra[0]!r}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{source}: {name!r} has shape {tuple(tensor.shape)}, "
                             f"expected {tuple(expected[name].shape)}")
        if tensor.is_floating_point() != expected[name].is_floating_point():
            kind = "floating point" if expected[name].is_floating_point() else "whole numbers"
            raise ValueError(f"{source}: {name!r} is {tensor.dtype}, expected {kind}")
        if not torch.isfinite(tensor.float() if tensor.is_floating_point() else tensor).all():
            raise ValueError(f"{source}: {name!r} holds NaN or infinite values")


def _set_aside(folder: Path) -> Path:
    "Where the old content of a folder lies while the new one takes its place."
    return folder.with_name(f".{folder.name}.old")


def whole_folder(folder: str | Path) -> Path:
    "Where to read a folder that `write_folder` wrote: where a kill between its two renames has left it, or itself."
    folder = _through_link(folder)
    return folder if folder.exists() or not _set_aside(folder).is_dir() else _set_aside(folder)


def write_folder(folder: str | Path, files: Mapping[str, bytes], manifest: Mapping | None) -> None:
    """
    Write a whole folder at once: all `files`, and `manifest` as config.json with the fingerprint of each.

    A file's name may lead through subfolders ("unet/config.json"). Without `manifest` there is no list of fingerprints.
    Everything is written into a hidden folder next to it, which is then renamed; a `folder` that is there is replaced,
    and one that is a symbolic link stays one: what it leads to is replaced. A kill between the last two renames leaves
    the old content under another name, where `whole_folder` finds it, and the next `write_folder` puts it back first.
    """
    folder = _through_link(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = folder.with_name(f".{folder.name}.tmp"), _set_aside(folder)
    if whole_folder(folder) == old:
        os.replace(old, folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(temporary / name, content)
        if manifest is not None:
            write_json(temporary / MANIFEST, {**manifest, "files": {n: sha256(c) for n, c in files.items()}})
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    "What may not be removed, such as somebody else's files, stays: nothing is lost by that but space."
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    "Remove a folder, or a link to one: it is gone at once or not at all. What a kill leaves of it, `tidy` removes."
    hidden = folder.with_name(f".{folder.name}.gone.tmp")  # write_folder may need the other name
    os.replace(folder, hidden)
    _remove(hidden)


def tidy(parent: str | Path) -> None:
    "After a kill, among folders that `write_folder` writes in `parent`: half-written ones go, set-aside ones go back."
    for left in Path(parent).glob(".*.old"):
        folder = left.with_name(left.name[1:-4])
        _remove(left) if folder.exists() else os.replace(left, folder)
    for left in Path(parent).glob(".*.tmp"):
        _remove(left)


def read_verified(folder: str | Path, name: str) -> bytes:
    "The bytes of one file of a folder that `write_folder` wrote. `ValueError` where it is missing or was changed."
    folder = whole_folder(folder)
    path, listed = folder / name, read_json(folder / MANIFEST).get("files")
    expected = listed.get(name) if isinstance(listed, dict) else None
    if expected is None or not path.is_file():
        raise ValueError(f"{str(path)!r} is missing, or {MANIFEST} does not list it")
    content = path.read_bytes()
    if sha256(content) != expected:
        raise ValueError(f"{str(path)!r} is damaged or was changed: its SHA-256 is not the one in {MANIFEST}")
    return content
