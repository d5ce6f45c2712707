"""Faults that users reported, in the formats of models. Tests bear the numbers of the list of faults."""
import dataclasses
import datetime
import json
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import GOOGLE_SCHEDULER, IN_DIFFUSERS, SMALL, description, same_model, small_denoiser
from torch.testing import assert_close

from ddpm_course.ddim import ddim_sample
from ddpm_course.ddpm import ddpm_sample
from ddpm_course.formats.diffusers import scheduler_from_diffusers
from ddpm_course.formats.model_folder import build, write_model
from ddpm_course.hub import from_diffusers, load_pretrained, save_pretrained, to_diffusers
from ddpm_course.lib.storage import read_verified

OLD = Path(__file__).parent / "fixtures" / "old"  # written by the first version


def test_folders_of_the_first_version_load_and_draw_the_same_images():
    expected, y = load_file(OLD / "images.safetensors"), torch.tensor([0, 1, 0, 1])
    noise = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    for name in ("model", "run"):
        denoiser = load_pretrained(OLD / name)
        images = {"ddim": ddim_sample(denoiser, noise[0], steps=5, y=y, progress=False),
                  "ddpm": ddpm_sample(denoiser, noise[1], steps=5, y=y, seed=3, progress=False)}
        for sampler, found in images.items():
            assert_close(found, expected[f"{name}.{sampler}"], rtol=0, atol=1e-4)
            assert found.std() > 0.05, f"{name}, {sampler}: grey pictures would agree whatever drew them"


def saved_config(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [
    os.fsdecode(b"caf\xe9"), "café", "# [title](x) <script> #", "a: *b* ```c``` | d", "---",
    "__all__ {x} 'y' $z$ &amp;"])
def test_01_a_folder_s_name_may_be_anything(name, tmp_path, monkeypatch):
    facts = {"data": f"pictures in {name}", "own words": name, name: "a key"}
    save_pretrained(small_denoiser(), tmp_path / name, facts=facts)
    card, saved = (tmp_path / name / "README.md").read_text(encoding="utf-8"), saved_config(tmp_path / name)
    json.dumps(saved, ensure_ascii=False).encode()  # plain UTF-8, whatever the name
    assert saved["facts"]["own words"].startswith(name[:3])
    assert card.count("\n# ") == 1 and card.count("```") == 2 and card.startswith("---\nlibrary_name: ddpm_course\n")
    heading = re.search("\n# (.*)\n", card)[1]
    unmasked = re.sub(r"\\([\\`*\[<|~$&_#])", r"\1", heading)
    assert unmasked == name.encode("utf-8", "backslashreplace").decode()
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows), "a cell was ended by a name"
    assert not re.search(r"(?<!\\)[\[<`*$]", heading)
    names = {}
    monkeypatch.chdir(tmp_path)  # the code on the card finds the folder
    exec(card.split("```")[1].removeprefix("python").replace("16", "1").replace("50", "2"), names)
    assert names["images"].shape == (1, 1, 8, 8)


def test_01_the_card_for_diffusers_as_well(tmp_path):
    name = os.fsdecode(b"caf\xe9 *new*")
    to_diffusers(small_denoiser(classes=["a", os.fsdecode(b"\xe9"), "c"]), tmp_path / name, facts={"data": name})
    card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    assert "\n# caf\\\\udce9 \\*new\\*\n" in card and f"from_pretrained({name!r}," in card
    assert from_diffusers(tmp_path / name).classes == ["a", "\\udce9", "c"]


def test_05_a_checkpoint_that_cannot_be_read_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        save_pretrained(small_denoiser(seed=step), tmp_path / "checkpoints" / f"step-0000000{step}")
    (tmp_path / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"")
    with mock.patch("ddpm_course.formats.model_folder.read_verified", side_effect=[OSError(5, "EIO"), mock.DEFAULT],
                    wraps=read_verified):
        with pytest.warns(UserWarning) as warned:
            assert same_model(load_pretrained(tmp_path), small_denoiser(seed=1))
    first, second = (str(w.message) for w in warned)
    assert first.startswith("step-00000003 is passed over: ") and "has 0 bytes" in first
    assert second == "step-00000002 is passed over: [Errno 5] EIO"
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step-0000000{step}" / "config.json").write_bytes(b"{")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 3 checkpoints .* step-00000003"):
        load_pretrained(tmp_path)


def test_11_the_names_of_classes_are_kept(tmp_path):
    names = ["cat", "dog | wolf", "Äpfel"]
    save_pretrained(small_denoiser(classes=names), tmp_path / "model")
    assert load_pretrained(tmp_path / "model").classes == names == saved_config(tmp_path / "model")["classes"]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "\n| classes | cat, dog \\| wolf, Äpfel |\n" in card
    to_diffusers(small_denoiser(classes=names), tmp_path / "abroad")
    assert from_diffusers(tmp_path / "abroad").classes == names
    assert load_pretrained(OLD / "model").classes is None, "a folder of the first version has no names"
    for wrong in (["cat", "dog"], ["cat", "dog", 3], "cat", {"cat": 0, "dog": 1, "owl": 2}):
        with pytest.raises(ValueError, match="classes is .*, expected null or the names of the 3 classes"):
            build(description() | {"classes": wrong})
    no_labels = small_denoiser(config=dataclasses.replace(SMALL, num_classes=None), classes=["cat"])
    for write in (save_pretrained, to_diffusers):
        with pytest.raises(ValueError, match=r"classes is \['cat'\], expected null or the names of the 0 classes"):
            write(no_labels, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("clip, words", [
    ((0, 1), "values in [0, 1]"), ((-1.0, 1.0), "values in [-1, 1]"),
    (torch.tensor([-0.5, 2.0]), "values in [-0.5, 2]"), (None, "values without fixed bounds")])
def test_12_the_range_is_kept_and_shown(clip, words, tmp_path):
    save_pretrained(small_denoiser(clip=clip), tmp_path / "model")
    expected = None if clip is None else tuple(float(x) for x in clip)
    assert load_pretrained(tmp_path / "model").clip == expected
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"images of shape (1, 8, 8), {words}, made" in card and f"# float32, {words}\n" in card


def test_12_a_range_that_could_not_be_loaded_is_not_saved(tmp_path):
    for clip, words in [((1, -1), r"clip is \[1, -1\], expected"), ((-1, float("inf")), r"clip\[1\] is inf, expected"),
                        (torch.tanh, "clip is <built-in method tanh"), ((1,), r"clip is \[1\], expected")]:
        for write in (save_pretrained, to_diffusers):
            with pytest.raises(ValueError, match=words):
                write(small_denoiser(clip=clip), tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_14_shape_and_range_may_be_numpy_s_and_torch_s(tmp_path):
    denoiser = small_denoiser(shape=tuple(np.array([1, 8, 8])), clip=torch.tensor([-1.0, 1.0]))
    for write, read in ((save_pretrained, load_pretrained), (to_diffusers, from_diffusers)):
        write(denoiser, tmp_path / write.__name__)
        assert same_model(read(tmp_path / write.__name__), small_denoiser())


def test_13_the_variance_travels_with_the_model(tmp_path):
    for variance in ("small", "large"):
        save_pretrained(small_denoiser(variance=variance), tmp_path / "model")
        assert load_pretrained(tmp_path / "model").variance == variance
        to_diffusers(small_denoiser(variance=variance), tmp_path / "abroad")
        scheduler = json.loads((tmp_path / "abroad" / IN_DIFFUSERS["scheduler"]).read_text())
        assert scheduler["variance_type"] == f"fixed_{variance}"
        assert from_diffusers(tmp_path / "abroad").variance == variance
    for theirs, ours in (("fixed_small", "small"), ("fixed_small_log", "small"), ("fixed_large", "large")):
        assert scheduler_from_diffusers(GOOGLE_SCHEDULER | {"variance_type": theirs})["variance"] == ours
    silent = {k: v for k, v in GOOGLE_SCHEDULER.items() if k != "variance_type"}
    assert scheduler_from_diffusers(silent)["variance"] == "small", "their default"
    assert load_pretrained(OLD / "model").variance == "small", "a folder of the first version says nothing"
    with pytest.raises(ValueError, match="variance is 'learned', expected one of"):
        build(description(variance="learned"))


def test_14_facts_are_plain_values(tmp_path):
    class Strange:
        pass

    facts = {"data": Path("pictures"), "fid": np.float32(0.5), "images": np.int64(7), "flip": np.bool_(True),
             "loss": torch.tensor(0.25), "each": np.arange(3), "lr": torch.tensor([1.0, 2.0]), "tags": ("a", Path("b")),
             "seeds": {"first": np.int8(1)}, "none": None}
    expected = {"data": "pictures", "fid": 0.5, "images": 7, "flip": True, "loss": 0.25, "each": [0, 1, 2],
                "lr": [1.0, 2.0], "tags": ["a", "b"], "seeds": {"first": 1}, "none": None}
    save_pretrained(small_denoiser(), tmp_path / "model", facts=facts)
    assert saved_config(tmp_path / "model")["facts"] == expected
    assert "\n| loss | 0.25 |\n" in (tmp_path / "model" / "README.md").read_text()
    for write in (save_pretrained, to_diffusers):
        for wrong, words in [
                ({"x": float("nan")}, r"facts\['x'\] is nan"), ({"x": np.float64("inf")}, r"facts\['x'\] is inf"),
                ({"x": [1, Strange()]}, r"facts\['x'\]\[1\] is <"), ({"x": b"abc"}, r"facts\['x'\] is b'abc'"),
                ({"day": datetime.date(2026, 1, 2)}, r"facts\['day'\] is datetime.date.*, expected text"),
                ({"z": torch.tensor(1j)}, r"facts\['z'\] is 1j"), ({3: "x"}, "facts has the key 3, expected text"),
                (["x"], r"facts is \['x'\], expected a dictionary")]:
            with pytest.raises(ValueError, match=words):
                write(small_denoiser(), tmp_path / "new", facts=wrong)
    assert not (tmp_path / "new").exists(), "something was written before the facts were refused"


def test_16_a_readme_written_by_hand_stays(tmp_path):
    for write, index in ((save_pretrained, "config.json"), (to_diffusers, "model_index.json")):
        folder = tmp_path / write.__name__
        readme = folder / "README.md"
        write(small_denoiser(), folder, facts={"data": "first"})
        write(small_denoiser(), folder, facts={"data": "second"})
        assert "| data | second |" in readme.read_text(), "our own card is written anew"
        readme.write_text("# My model\n\nBy hand.\n")
        for seed in (1, 2):  # the second time it is listed with the other files
            with pytest.warns(UserWarning, match="README.md' was written by hand and is kept"):
                write(small_denoiser(seed), folder, facts={"data": "third"})
            assert readme.read_text() == "# My model\n\nBy hand.\n"
        read = load_pretrained if write is save_pretrained else from_diffusers
        assert same_model(read(folder), small_denoiser(2)), f"the model beside {index} is the new one"
        readme.unlink()
        write(small_denoiser(), folder, facts={"data": "fourth"})
        assert "| data | fourth |" in readme.read_text()


def test_16_the_card_of_the_first_version_is_known_as_ours(tmp_path):
    shutil.copytree(OLD / "model", tmp_path / "model")
    save_pretrained(small_denoiser(), tmp_path / "model", facts={"data": "new"})
    assert "| data | new |" in (tmp_path / "model" / "README.md").read_text()
    shutil.copytree(OLD / "model", tmp_path / "changed")
    with open(tmp_path / "changed" / "README.md", "a") as readme:
        readme.write("\nOne line by hand.\n")
    with pytest.warns(UserWarning, match="is kept"):
        save_pretrained(small_denoiser(), tmp_path / "changed")
    assert "One line by hand." in (tmp_path / "changed" / "README.md").read_text()


def test_16_private_paths_stay_private(tmp_path):
    private = tmp_path / "jane" / "holiday pictures"
    config = {"data": str(private), "out": r"C:\Users\jane\runs\first", "lr": 0.1, "url": "https://x/y"}
    write_model(small_denoiser(), tmp_path / "model", facts={"data": str(private), "more": [private]},
                extra_config={"training": {"config": config}})
    for name in ("config.json", "README.md"):
        text = (tmp_path / "model" / name).read_text()
        assert "jane" not in text and "holiday pictures" in text
    assert saved_config(tmp_path / "model")["training"]["config"] == {
        "data": "holiday pictures", "out": "first", "lr": 0.1, "url": "https://x/y"}


def test_16_a_link_beside_the_model_is_not_lost(tmp_path):
    save_pretrained(small_denoiser(), tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "model" / "pictures").symlink_to(tmp_path / "pictures", target_is_directory=True)
    with pytest.raises(ValueError, match="holds 'pictures', which is no part of the model"):
        save_pretrained(small_denoiser(), tmp_path / "model")
    assert (tmp_path / "model" / "pictures").is_symlink()


@pytest.mark.parametrize("write, read", [(save_pretrained, load_pretrained), (to_diffusers, from_diffusers)])
def test_18_a_kill_between_two_renames_loses_nothing(write, read, tmp_path):
    write(small_denoiser(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("By hand.")
    (tmp_path / "model").rename(tmp_path / ".model.old")  # what such a kill leaves
    assert same_model(read(tmp_path / "model"), small_denoiser())
    with pytest.warns(UserWarning, match="was written by hand and is kept"):
        write(small_denoiser(seed=1), tmp_path / "model")
    assert same_model(read(tmp_path / "model"), small_denoiser(seed=1))
    assert (tmp_path / "model" / "README.md").read_text() == "By hand."


@pytest.mark.parametrize("write, read", [(save_pretrained, load_pretrained), (to_diffusers, from_diffusers)])
def test_19_a_folder_that_is_a_link_stays_one(write, read, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for seed in (1, 2):
        write(small_denoiser(seed), tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        for name in ("link", "elsewhere"):
            assert same_model(read(tmp_path / name), small_denoiser(seed))
    assert "\n# link\n" in (tmp_path / "elsewhere" / "README.md").read_text()
