"""Bad input is refused with an error that names the value and what was expected."""
import json
import os
import pickle

import pytest
import sympy
import torch

from ddpm_course.app.cli import main
from ddpm_course.lib.ledger import equation, read_ledger
from ddpm_course.lib.storage import (check_tensors, read_json, read_verified, tensors_from_bytes, tensors_to_bytes,
                                     write_folder, write_json)
from ddpm_course.lib.viz import save_gif, to_pixels


def refused(call, kind, words):
    "`call` must raise `kind` with a message in which `words` occur."
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value), caught.value


def test_storage(tmp_path):
    good, bad = tmp_path / "config.json", tmp_path / "bad.json"
    write_json(good, {"steps": 4000})
    refused(lambda: read_json(tmp_path / "nothing.json"), ValueError, "nothing.json' does not exist")
    refused(lambda: read_json(good, max_bytes=10), ValueError, "config.json' has 20 bytes, expected at most 10")
    for content, words in [
        (b'{"steps": 40', "bad.json' is not valid JSON"),
        (b"\xff\xfe{}", "bad.json' is not valid JSON"),
        (b"", "bad.json' is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bad.json' is not valid JSON"),  # a number that Python refuses to read
        (b'{"a": ' + b"[" * 100_000, "bad.json' is not valid JSON"),  # deeper than any parser can follow
        (b"[1, 2]", "bad.json' holds a list, expected a JSON object"),
        (b"3", "bad.json' holds a int, expected a JSON object"),
    ]:
        bad.write_bytes(content)
        refused(lambda: read_json(bad), ValueError, words)

    class Surprise:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made by a pickle"),)

    poison = pickle.dumps({"weight": Surprise()})
    content = tensors_to_bytes({"weight": torch.ones(4, 3)})
    for bad in (poison, b"", b"hello", content[:-1], content[:len(content) // 2], content + b"x"):
        refused(lambda: tensors_from_bytes(bad, "'model.pt'"), ValueError,
                "'model.pt' is not a valid safetensors file")
    assert not (tmp_path / "made by a pickle").exists()
    pickle.loads(poison)
    assert (tmp_path / "made by a pickle").exists()  # so it would have been seen

    expected = torch.nn.Linear(3, 2).state_dict()
    fits, nan, inf = expected, float("nan"), float("inf")
    for found, words in [
        ({"weight": fits["weight"]}, "weights lacks 1 tensors, the first: 'bias'"),
        ({}, "weights lacks 2 tensors, the first: 'bias'"),
        (fits | {"scale": torch.ones(1), "extra": torch.ones(1)}, "weights has 2 tensors too many, the first: 'extra'"),
        (fits | {"weight": torch.ones(3, 2)}, "weights: 'weight' has shape (3, 2), expected (2, 3)"),
        (fits | {"bias": torch.zeros(2, dtype=torch.int8)}, "weights: 'bias' is torch.int8, expected floating point"),
        (fits | {"bias": torch.zeros(2, dtype=torch.complex64)}, "'bias' is torch.complex64, expected floating point"),
        (fits | {"bias": torch.tensor([nan, 0]).to(torch.float8_e4m3fn)}, "'bias' holds NaN or infinite values"),
        (fits | {"bias": torch.tensor([0.0, nan])}, "weights: 'bias' holds NaN or infinite values"),
        (fits | {"bias": torch.tensor([-inf, 0.0])}, "weights: 'bias' holds NaN or infinite values"),
    ]:
        refused(lambda: check_tensors(found, expected, "weights"), ValueError, words)
    refused(lambda: check_tensors({"steps": torch.tensor(7.0)}, {"steps": torch.tensor(0)}, "state"), ValueError,
            "state: 'steps' is torch.float32, expected whole numbers")

    model, million = tmp_path / "model", bytes(1_000_000)
    write_folder(model, {"weights.bin": million}, {})
    flipped = bytearray(million)
    flipped[123_456] ^= 1  # one bit of eight million
    for content in (flipped, million[:-1]):
        (model / "weights.bin").write_bytes(content)
        refused(lambda: read_verified(model, "weights.bin"), ValueError, "weights.bin' is damaged or was changed")
    (model / "weights.bin").write_bytes(million)
    assert read_verified(model, "weights.bin") == million  # repaired
    (model / "added.bin").write_bytes(b"who put this here?")
    (model / "weights.bin").unlink()
    for name in ("added.bin", "weights.bin"):
        refused(lambda: read_verified(model, name), ValueError, f"{name}' is missing, or config.json does not list it")
    write_json(model / "config.json", {"files": ["added.bin"]})
    refused(lambda: read_verified(model, "added.bin"), ValueError, "is missing, or config.json does not list it")
    refused(lambda: read_verified(tmp_path / "none", "weights.bin"), ValueError, "config.json' does not exist")


def test_viz(tmp_path):
    for shape in ((1, 28, 28), (28, 1, 28), (2, 4, 8, 8), (2, 2, 8, 8)):
        refused(lambda: to_pixels(torch.zeros(shape)), ValueError,
                f"images have shape {shape}, expected (B, 1, H, W) or (B, 3, H, W)")
    refused(lambda: save_gif([], tmp_path / "none.gif"), ValueError, "frames is empty, expected one batch of images")
    assert not list(tmp_path.iterdir())


def test_ledger(tmp_path):
    draws = 0.5 + 2 * torch.randn(20_000, 30, generator=torch.Generator().manual_seed(0))
    a, b = sympy.symbols("a b")
    for check, words in [
        (lambda eq: None, "(0.0) a claim: nothing was compared"),
        (lambda eq: eq.close(torch.ones(0), 1.0, atol=1), "nothing was compared"),
        (lambda eq: eq.close(torch.ones(0), torch.ones(0), atol=1), "nothing was compared"),
        (lambda eq: eq.mean(draws, 0.6), "standard errors, allowed 4.65"),  # a standard error is 0.014
        (lambda eq: eq.variance(draws, 2.0), "expected 2;"),  # the standard deviation is not the variance
        (lambda eq: eq.mean(draws[0], float("nan")), "expected nan"),
        (lambda eq: eq.close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), rtol=1e-3),
         "(0.0) a claim: number 1 of 2 is 2, expected 2.1; off by 0.0476 relative, allowed 0.001"),
        (lambda eq: eq.close(1.5, 1.0, atol=0.49), "off by 0.5 absolute, allowed 0.49"),
        (lambda eq: eq.close(float("nan"), 1.0, atol=1), "number 0 of 1 is nan, expected 1; off by inf absolute"),
        (lambda eq: eq.close(1e-9, 0.0, rtol=1e-3), "relative"),  # nothing is close to 0 in relative terms
        (lambda eq: eq.close(torch.ones(3), torch.ones(1, 3), atol=1), "shape (3,) is compared with (1, 3)"),
        (lambda eq: eq.above(1.0, 1.0), "off by 1 violations"),
        (lambda eq: eq.above(1.1, 1.0, standard_error=0.1), "off by 1 violations"),  # chance explains one
        (lambda eq: eq.above([2.0, float("nan")], 1.0), "number 1 of 2 is nan, expected 1"),
        (lambda eq: eq.symbolic((a + b) ** 2, a**2 + b**2), "the two sides differ by 2*a*b"),
    ]:
        def attempt():
            with equation("0.0", "a claim") as eq:
                check(eq)
        refused(attempt, AssertionError, words)
    with equation("0.0", "a claim", folder=tmp_path) as eq:
        refused(lambda: eq.close(1.0, 1.0), ValueError, "rtol is None and atol is None, expected exactly one of them")
        refused(lambda: eq.close(1.0, 1.0, rtol=0, atol=0), ValueError, "rtol is 0 and atol is 0, expected exactly one")
        eq.close(1.0, 1.0, atol=0)
    refused(lambda: read_ledger(tmp_path / "no_such_ledger.json"), FileNotFoundError, "no_such_ledger.json")


def test_cli(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "taken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    for name, entry in (("wrong", {"learning_rate": 1}), ("type", {"steps": "many"}), ("bool", {"lr": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))
    before = sorted(tmp_path.rglob("*"))
    for line, words in [  # each is told in one line, ends with exit code 2, and writes nothing
        ("train --out run --data imagenet", "data is 'imagenet'"),
        ("train --out run --data empty", "no images"),
        ("train --out run --device tpu", "device is 'tpu'"),
        ("train --out run --steps 0", "steps is 0"),
        ("train --out run --steps many", "--steps"),
        ("train --out run --batch-size -4", "batch_size is -4"),
        ("train --out run --image-size 30 --patch-size 4", "image_size is 30, expected a multiple of 8"),
        ("train --out run --schedule straight", "'straight'"),
        ("train --out run --stepz 3", "--stepz"),
        ("train --out taken", "exists already"),
        ("train --out run --resume", "there is none"),
        ("train --config none.json", "'none.json' does not exist"),
        ("train --config", "--config is given without a file, expected the path of a JSON file"),
        ("train --out run --config wrong.json", "'wrong.json' has the entry 'learning_rate', expected options"),
        ("train --out run --config=type.json", "'type.json': steps is 'many', expected a whole number of 1 or more"),
        ("train --out run --config bool.json", "'bool.json': lr is True, expected a number, more than 0"),
        ("info run", "model is 'run', expected a model folder, a run folder"),
        ("sample run", "expected a model folder"),
        ("sample digits --n 0", "n is 0"),
        ("sample digits --steps 1001", "steps is 1001"),
        ("sample digits --y 10", "y is 10, expected 0 to 9"),
        ("sample digits --out nowhere/grid.png", "out is 'nowhere/grid.png', expected a file in a folder that exists"),
    ]:
        code, told = main(line.split()), capsys.readouterr()
        assert code == 2 and words in told.err and told.err.count("\n") == 1 and not told.out, (line, code, told)
        assert told.err.startswith(f"ddpm_course {line.split()[0]}: ") and "Traceback" not in told.err, told.err
    assert sorted(tmp_path.rglob("*")) == before
