"""The script of chapter 16: what it keeps when a part fails, what it counts, and that its goals can be missed."""
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("train_on_gpu")
    yield module
    del sys.modules["train_on_gpu"]


def test_what_was_found_is_kept_when_a_part_fails(script, monkeypatch, tmp_path):
    def good(args, report):
        report.add({"good": {"speed": 3.0}})

    def bad(args, report):
        report.add({"bad": "half of it"})
        raise RuntimeError("out of luck")
    monkeypatch.setattr(script, "PARTS", {"bad": bad, "good": good})
    file = tmp_path / "results" / "report.json"
    monkeypatch.setattr(sys, "argv", ["train_on_gpu.py", "--small", "--out", str(file)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    found = json.loads(file.read_text())
    assert ended.value.code == 1 and found["failed"] == {"bad": "RuntimeError: out of luck"}
    assert found["good"] == {"speed": 3.0} and found["bad"] == "half of it" and found["small"] is True
    assert set(found["parts"]) == {"good", "bad"} and found["device"]["device"] == "cpu"

    monkeypatch.setattr(script, "PARTS", {"bad": lambda args, report: report.add({"bad": "all of it"}), "good": bad})
    monkeypatch.setattr(sys, "argv", ["train_on_gpu.py", "--small", "--out", str(file), "--parts", "bad"])
    with pytest.raises(SystemExit) as ended:  # the second go makes up for the first, and keeps the rest
        script.main()
    found = json.loads(file.read_text())
    assert not ended.value.code and not found["failed"] and found["bad"] == "all of it" and "good" in found


def test_without_a_gpu_only_the_rehearsal_runs(script, monkeypatch):
    monkeypatch.setattr(script, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["train_on_gpu.py"])
    with pytest.raises(SystemExit, match="no GPU here; --small"):
        script.main()


def test_pictures_are_kept_in_rows_with_names(script, tmp_path):
    report = script.Report(tmp_path / "report.json", torch.device("cpu"), True)
    for name, value in (("first", -1.0), ("second", 1.0), ("first", 0.0)):
        report.add_row(name, torch.full((10, 1, 28, 28), value))
    pixels = np.array(Image.open(tmp_path / "report.png")).reshape(2, 28, 280)
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == ["second", "first"]
    assert (pixels[0] == 255).all() and (pixels[1] == 128).all()


class Says:
    "A judge that sees what it is told to."
    def __init__(self, confidence, seen):
        self.answer = confidence, seen

    def confidence(self, images):
        return self.answer


def test_what_the_judge_says_is_counted(script):
    confidence = torch.tensor([0.95, 0.9, 0.5, 0.99])
    v = script.verdict(Says(confidence, torch.tensor([0, 1, 2, 2])), torch.zeros(4), torch.tensor([0, 1, 2, 3]))
    assert (v["sure"], v["as asked"], v["classes"]) == (0.75, 0.75, [1, 1, 2] + 7 * [0])
    assert v["error"] == pytest.approx((5 / 8 * 3 / 8 / 4) ** 0.5)  # 3 of 4, and two of each kind besides
    assert script.verdict(Says(torch.ones(9), torch.zeros(9, dtype=torch.int64)), torch.zeros(9))["error"] > 0.05


def test_the_scatter_is_9_in_the_mean_where_classes_fall_by_chance(script):
    g = torch.Generator().manual_seed(0)
    scatter = torch.tensor([script.verdict(Says(torch.ones(200), torch.randint(10, (200,), generator=g)),
                                           torch.zeros(200))["scatter"] for _ in range(400)])
    error = scatter.std() / 400**0.5  # about 0.21
    assert abs(scatter.mean() - 9) < 4 * error and 3 < scatter.std() < 5.5


def test_goals_are_met_or_missed(script):
    ours = {"n": 10_000, "sure": 0.975, "classes": [1000] * 9 + [1019], "seconds": 4.0}
    found = {"this run": {"by class": ours}, "real": {"sure": 0.984}, "run": {"seconds": 170.0},
             "unet": {"ours_over_diffusers": {"as shipped": {"train": 1.6, "forward": 1.4},
                                              "both channels_last": {"train": 1.0, "forward": 1.2}}}}
    met = {name: goal["met"] for name, goal in script.goals(found).items()}
    assert [name for name in met if not met[name]] == ["the paper's network, forward, as shipped: at least 1.5 of "
                                                       "diffusers'"]
    assert len(met) == 8
    worse = {"this run": {"by class": ours | {"sure": 0.995, "classes": [1000] * 9 + [1021], "seconds": 6.0}},
             "real": {"sure": 0.984}, "run": {"seconds": 181.0}}
    assert not any(goal["met"] for goal in script.goals(worse).values())


def test_the_ladder_ends_with_everything_switched_on(script):
    *_, (change, half, tf32) = script.LADDER.values()
    assert script.to_channels_last in change and script.fuse in change and half and tf32


def test_nothing_is_compiled_inside_the_clock(script, monkeypatch):
    "Every shape that is timed was drawn before: also the last, smaller chunk."
    shapes, now = [], iter(range(99))

    def sample(denoiser, n, y=None, steps=0, **rest):
        shapes.append((n, steps))
        return torch.zeros(n, 1)
    device = torch.device("cpu")
    denoiser = type("D", (), {"schedule": type("S", (), {"betas": type("B", (), {"device": device})})})
    monkeypatch.setattr(script, "WARM", ("cpu",))
    monkeypatch.setattr(script.time, "perf_counter", lambda: shapes.append("clock") or next(now))
    images, y, seconds = script.draw(sample, denoiser, 5000, True, "float32", steps=20)
    clock = shapes.index("clock")
    assert {n for n, _ in shapes[:clock]} == {2000, 1000}
    assert shapes[clock + 1:-1] == [(2000, 20), (2000, 20), (1000, 20)]
    assert len(images) == len(y) == 5000 and seconds == 1
