"""Files that survive: a reader finds the old content or the new and never a part, whatever happens meanwhile."""
import errno
import os
import shutil
from unittest import mock

import pytest
import torch

from ddpm_course.lib.storage import (MANIFEST, _sync_folder, append_line, check_tensors, read_json, read_verified,
                                     sha256, tensors_from_bytes, tensors_to_bytes, write_atomic, write_folder,
                                     write_json)

real_fsync, real_replace = os.fsync, os.replace


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_whoever_reads_while_a_file_is_written_reads_the_old_content_to_its_end(tmp_path):
    path = tmp_path / "notes.bin"
    write_atomic(path, b"first")
    if os.name != "nt":  # Windows does not replace an open file
        with open(path, "rb") as reader:
            write_atomic(path, b"second version")
            assert reader.read() == b"first"
    write_atomic(str(path), b"second version")
    assert path.read_bytes() == b"second version" and names(tmp_path) == ["notes.bin"]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("accident", [OSError("disk error"), KeyboardInterrupt()], ids=["disk error", "Ctrl-C"])
def test_an_accident_keeps_the_old_content_leaves_no_trace_and_reaches_the_caller(tmp_path, step, accident):
    path = tmp_path / "notes.bin"
    path.write_bytes(b"old")
    with mock.patch(step, side_effect=accident), pytest.raises(type(accident)) as caught:
        write_atomic(path, b"new")
    assert caught.value is accident
    assert path.read_bytes() == b"old" and names(tmp_path) == ["notes.bin"]


def test_a_disk_that_refuses_a_flush_is_told_with_the_name_of_the_file(tmp_path):
    with (mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
          pytest.raises(OSError) as caught):
        write_atomic(tmp_path / "notes.bin", b"new")
    assert str(caught.value).endswith(f"No space left on device: {str(tmp_path / 'notes.bin')!r}")


def test_the_bytes_are_flushed_before_the_rename_and_the_name_after_it(tmp_path):
    order = []
    with mock.patch("os.fsync", lambda handle: (order.append("flush"), real_fsync(handle))), \
         mock.patch("os.replace", lambda old, new: (order.append("rename"), real_replace(old, new))):
        write_atomic(tmp_path / "notes.bin", b"content")
    assert order == ["flush", "rename"] + ["flush"] * (os.name != "nt")


def test_no_folder_is_opened_on_windows(tmp_path):
    with mock.patch("os.name", "nt"), mock.patch("os.open", side_effect=PermissionError):
        _sync_folder(tmp_path)


def test_a_log_grows_by_whole_lines(tmp_path):
    for line in ("one", "zwölf"):
        append_line(tmp_path / "log.txt", line)
    assert (tmp_path / "log.txt").read_bytes().splitlines() == [b"one", "zwölf".encode()]
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("zwölf\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a file that is always full")
def test_a_log_on_a_full_disk_is_told_with_its_name():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_line("/dev/full", "three")


def test_json_comes_back_as_it_was_written_indented_and_with_a_whole_last_line(tmp_path):
    path, content = tmp_path / "config.json", {"steps": 4000, "channel_mults": [1, 2], "name": "déjà vu"}
    write_json(path, content)
    assert read_json(path) == content
    assert path.read_bytes().startswith(b'{\n  "steps": 4000,\n') and path.read_bytes().endswith(b"\n}\n")
    assert read_json(path, max_bytes=path.stat().st_size) == content


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "config.json", {"steps": 4000})
    with mock.patch("os.replace", side_effect=OSError), pytest.raises(OSError):
        write_json(tmp_path / "config.json", {"steps": 1})
    assert read_json(tmp_path / "config.json") == {"steps": 4000}


def test_the_fingerprint_is_that_of_the_standard():  # FIPS 180-4, the example "abc"
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_tensors_come_back_with_their_names_shapes_types_and_numbers():
    weights = {"conv.weight": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(),
               "table": torch.arange(6).view(2, 3).T, "half": torch.linspace(-1, 1, 5).bfloat16(),
               "empty": torch.zeros(0, 2)}
    assert not weights["table"].is_contiguous()
    back = tensors_from_bytes(tensors_to_bytes(weights), "weights.safetensors")
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype and back[name].equal(tensor.detach()) and not back[name].requires_grad


def test_words_about_the_tensors_stand_in_the_header_where_given():
    assert b'"__metadata__":{"format":"pt"}' in tensors_to_bytes({"weight": torch.ones(2)}, {"format": "pt"})
    assert b"__metadata__" not in tensors_to_bytes({"weight": torch.ones(2)})


def test_weights_that_fit_are_let_through():
    expected = torch.nn.Linear(3, 2).state_dict()
    check_tensors({name: tensor.clone() for name, tensor in expected.items()}, expected, "weights")
    check_tensors({name: tensor.half() for name, tensor in expected.items()}, expected, "weights")
    check_tensors({"steps": torch.tensor(7)}, {"steps": torch.tensor(0)}, "state")  # whole numbers are finite


def test_a_folder_is_written_with_a_list_of_fingerprints_and_replaced_as_a_whole(tmp_path):
    model = tmp_path / "models" / "digits"  # the folder above is made, too
    write_folder(model, {"weights.bin": b"one", "state.bin": b"two"}, {"version": 1})
    assert names(model) == ["config.json", "state.bin", "weights.bin"]
    assert read_json(model / MANIFEST) == {
        "version": 1, "files": {"weights.bin": sha256(b"one"), "state.bin": sha256(b"two")}}
    write_folder(model, {"weights.bin": b"three"}, {"version": 2})
    assert names(model) == ["config.json", "weights.bin"] and read_verified(model, "weights.bin") == b"three"
    assert read_json(model / MANIFEST)["version"] == 2 and names(model.parent) == ["digits"]


def test_a_folder_may_have_subfolders_and_no_list_of_fingerprints(tmp_path):
    write_folder(tmp_path / "deep", {"unet/weights.bin": b"one", "about.json": b"{}"}, None)
    assert (tmp_path / "deep" / "unet" / "weights.bin").read_bytes() == b"one"
    assert names(tmp_path / "deep") == ["about.json", "unet"]


def test_the_files_of_a_folder_and_the_names_of_all_of_them_are_flushed(tmp_path):
    with mock.patch("os.fsync", side_effect=real_fsync) as flush:
        write_folder(tmp_path / "model", {"weights.bin": b"three"}, {})
    assert flush.call_count == (5 if os.name != "nt" else 2)  # two files with their folder, and the folder above


def failing_at(n):
    "An os.replace that fails at its n-th call."
    calls = iter(range(1, 100))

    def replace(old, new):
        if next(calls) == n:
            raise OSError(f"accident {n}")
        real_replace(old, new)
    return mock.patch("os.replace", replace)


# Two files, the list, the old folder moved aside, the new one in its place.
@pytest.mark.parametrize("n", range(1, 6))
def test_a_folder_stays_as_it_was_whichever_rename_fails(tmp_path, n):
    model = tmp_path / "digits"
    write_folder(model, {"weights.bin": b"old"}, {"version": 1})
    with failing_at(n), pytest.raises(OSError, match=f"accident {n}"):
        write_folder(model, {"weights.bin": b"new", "state.bin": b"new"}, {"version": 2})
    assert names(tmp_path) == ["digits"] and names(model) == ["config.json", "weights.bin"]
    assert read_json(model / MANIFEST)["version"] == 1 and read_verified(model, "weights.bin") == b"old"


@pytest.mark.parametrize("n", range(1, 5))
def test_a_folder_that_was_not_there_is_still_not_there_whichever_rename_fails(tmp_path, n):
    with failing_at(n), pytest.raises(OSError, match=f"accident {n}"):
        write_folder(tmp_path / "new", {"weights.bin": b"new", "state.bin": b"new"}, {})
    assert not names(tmp_path)


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_what_a_crash_left_behind_does_not_leak_into_a_new_folder(tmp_path, there):
    if there:
        write_folder(tmp_path / "digits", {"weights.bin": b"old"}, {})
    (tmp_path / ".digits.tmp").mkdir()
    (tmp_path / ".digits.tmp" / "stray.bin").write_bytes(b"from a crash")
    if there:
        shutil.copytree(tmp_path / "digits", tmp_path / ".digits.old")
    write_folder(tmp_path / "digits", {"weights.bin": b"new"}, {})
    assert names(tmp_path) == ["digits"] and names(tmp_path / "digits") == ["config.json", "weights.bin"]
    assert read_verified(tmp_path / "digits", "weights.bin") == b"new"
