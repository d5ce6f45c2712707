"""The benchmarks' README: its table is what the results give, its goals can be missed, and every script is named."""
import copy
import dataclasses
import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(BENCHMARKS))
    module = importlib.import_module("table")
    sys.path.remove(str(BENCHMARKS))
    yield module
    del sys.modules["table"]


def committed(table, name):
    return table.read(BENCHMARKS / "results" / name)


def goals(rows):
    return {row.what: row.met for row in rows if row.goal}


def test_the_readme_holds_the_table_that_the_results_give(table):
    built = table.with_table(README, table.build(BENCHMARKS / "results"))
    assert built == README, "run: python benchmarks/table.py"


def test_a_readme_without_markers_is_refused(table):
    with pytest.raises(ValueError, match="lacks <!-- benchmarks/table.py begins -->"):
        table.with_table("# Benchmarks\n", "| a table |")


def test_every_result_is_in_the_table(table):
    "But those of rehearsals, which are called so."
    files = {p.name for p in (BENCHMARKS / "results").glob("*.json*") if not p.stem.endswith("_small")}
    assert files and files <= {source.file for source in table.SOURCES}


def test_every_script_is_in_the_readme_and_every_link_leads_somewhere(table):
    helpers = {"__main__.py", "machine.py", "table.py"}
    scripts = {p.name for p in BENCHMARKS.glob("*.py")} - helpers
    links = set(re.findall(r"\]\(([^)\s]+)\)", README))
    assert scripts <= links and not [link for link in links if not (BENCHMARKS / link).exists()]
    assert {script for _, script, *_ in runpy.run_path(str(BENCHMARKS / "__main__.py"))["RUNS"].values()} <= scripts


def test_what_has_no_result_has_no_rows(table, tmp_path):
    assert "**" not in table.build(tmp_path)
    (tmp_path / "busy.json").write_text(json.dumps(committed(table, "busy.json")))
    assert table.build(tmp_path).count("**") == 2  # one title


def test_speeds_miss_their_goals_when_they_are_too_low(table):
    loop = committed(table, "train.json")
    for ratio, met in ((1.05, True), (1.051, False)):
        loop["contestants"]["ours"]["ratio"] = ratio
        assert list(goals(table.training_loop(loop)).values()) == [met]

    record = committed(table, "samplers.json")[-1]
    record["share_of_theirs"] = {"ours: DDIM / diffusers: DDIM": 1.0, "ours: PLMS / diffusers: PLMS": 1.01}
    older = copy.deepcopy(record) | {"share_of_theirs": {"ours: DDIM / diffusers: DDIM": 2.0}}
    rows = [row for row in table.samplers([older, record]) if row.goal]
    assert [row.met for row in rows] == [True, False] and [bool(row.note) for row in rows] == [False, True]

    network = committed(table, "unet.json")
    network["ours_over_diffusers"]["as shipped"] = {"train": 1.0, "forward": 0.99}
    network["contestants"][0]["train"]["share_of_matmul"] = 0.85
    network["contestants"][0]["forward"]["share_of_matmul"] = 0.849
    assert list(goals(table.unet(network)).values()) == [True, True, False, False]

    machine = committed(table, "busy.json")
    machine["images_a_second_beside"] = {"0": {"package": 2, "passive": 1, "as torch": 2},
                                         "1": {"package": 2, "passive": 1, "as torch": 3}}
    assert list(goals(table.busy(machine)).values()) == [True, False]


def test_the_slowest_slider_is_held_against_the_goal(table):
    for slowest, met in ((150.0, True), (151.0, False)):
        rows = [{"chapter": "02_forward_process", "slider": f"{i} t", "milliseconds": time, "moves": 7}
                for i, time in enumerate((30.0, slowest, 40.0))]
        (row,) = table.sliders({"rows": rows, "date": "2026-01-02", "cpu": "a CPU"})
        assert row.met is met and "02_forward_process, 1 t; the median of all 3 sliders 40" in row.beside


def test_noise_is_drawn_at_nobodys_cost(table):
    record = {"microseconds_a_step": {"drawing noise": 300, "ours: DDPM": 500, "lucidrains: p_sample": 550,
                                      "ours: DDIM": 200, "diffusers: DDIM": 400},
              "share_of_theirs": {"ours: DDPM / lucidrains: p_sample": 0.8, "ours: DDIM / diffusers: DDIM": 0.5},
              "memory_bytes": {}, "date": "2026-01-02", "cpu": "a CPU"}
    assert [(row.ours.split(",")[0], row.beside) for row in table.samplers([record])] == [
        ("200", "lucidrains 250"), ("200", "diffusers 400")]


def digits(recipe, minutes, value):
    score = {"value": value, "interval": [value - 1, value + 1], "floor": 0.5}
    return {"kind": "score", "recipe": recipe, "minutes": minutes, "scores": {"frechet": score, "kernel": score},
            "date": "2026-01-02", "cpu": "a CPU"}


@pytest.mark.parametrize("others, met", [
    ({"tutorial": 9, "lucidrains": 8, "diffusers": 7.1}, True), ({"tutorial": 9, "lucidrains": 8}, None),
    ({"lucidrains": 7}, False), ({"tutorial": 9, "lucidrains": 8, "diffusers": 6.9}, False)])
def test_our_first_minute_must_beat_the_tenth_of_all_others(table, others, met):
    "A better score of one of them is enough to miss the goal; it is met when all three are there and none is better."
    lines = [digits("ours", 1.0, 7), digits("ours-without-labels", 10.0, 1)]
    lines += [digits(name, minutes, value) for name, value in others.items() for minutes in (1.0, 10.0)]
    assert list(goals(table.time_to_digits(lines)).values()) == [met, met]


def test_of_scores_that_were_made_twice_the_newer_counts(table):
    rows = list(table.time_to_digits([digits("ours", 2.0, 7), digits("ours", 2.0, 3)]))
    assert [row.ours for row in rows] == ["3 (2 to 4)"] * 2


def test_the_default_recipe_is_held_against_all_others(table):
    "Means over seeds; the goal is missed where another one is lower by more than two standard errors."
    def row(cell, ema, seed, value):
        return {"cell": cell, "ema": ema, "seed": seed, "updates": 1000, "judged_on": "training",
                "frechet": [value, 0.3], "date": "2026-01-02"}
    found = {"floors": {"training": {"frechet": [0.9, 0.2]}}, "machine": {"cpu": "a CPU"}}
    rows = [row("cosine v simple", "0.995", seed, 5 + seed) for seed in (0, 1)]
    error = (0.3**2 / 2 + 0.3**2)**0.5  # of the difference between two seeds' mean and one seed
    for value, met in ((5.5 - 1.99 * error, True), (5.5 - 2.01 * error, False)):
        (line,) = table.ablation(found | {"rows": [*rows, row("linear eps simple", "none", 0, value)]})
        assert line.met is met and "5.50 ± 0.21" in line.ours and "linear eps simple, last weights" in line.beside
    (line,) = table.ablation(found | {"rows": rows})
    assert line.met is None


def test_the_emoji_recipe_of_the_program_is_the_best_of_the_variants(table):
    found, defaults = committed(table, "emoji_search.json"), dataclasses.asdict(table.TrainConfig(data="emoji"))
    recipe = json.loads(json.dumps(defaults | table.RECIPES["emoji"]))
    for line, seconds in zip(table.emoji_search(found), sorted({r["processor_seconds"] for r in found["rows"]})):
        rows = [r for r in found["rows"] if r["processor_seconds"] == seconds]
        best = min(rows, key=lambda r: r["held_out_v_error"][0])
        assert line.ours.startswith(f"{best['variant']} {best['held_out_v_error'][0]:.4f}")
        settings = json.loads(json.dumps(defaults)) | found["base"] | best["changes"]
        assert {key for key in settings if settings[key] != recipe[key]} <= {"steps", "save_every", "out"}


def test_settings_are_told_by_what_differs_from_the_defaults(table):
    config = json.loads(json.dumps(dataclasses.asdict(table.TrainConfig(steps=7))))
    assert table.as_ours(config) == "`TrainConfig()`"
    assert table.as_ours(config | {"lr": 0.5, "channel_mults": [1, 4]}) == "`TrainConfig(channel_mults=[1, 4], lr=0.5)`"
    theirs = {"network": {"dim": 16, "mults": [1, 2]}, "lr": 1e-4}
    assert table.flat(theirs) == "network (dim 16, mults (1, 2)), lr 0.0001"


def test_all_run_although_one_fails_and_the_table_comes_last(monkeypatch, capsys):
    script, ran = runpy.run_path(str(BENCHMARKS / "__main__.py"), run_name="benchmarks"), []

    def run(command, cwd):
        ran.append(Path(command[1]).name)
        return subprocess.CompletedProcess(command, int("train.py" in command[1]))
    monkeypatch.setitem(script["main"].__globals__, "PEERS", ())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "samplers", "train", "busy"])
    assert script["main"]() == 1 and ran == ["samplers.py", "train.py", "busy.py", "table.py"]
    assert capsys.readouterr().out.endswith("failed: train\n")

    monkeypatch.setitem(script["main"].__globals__, "PEERS", ("json", "no_such_library"))
    with pytest.raises(SystemExit):
        script["main"]()
    assert "no_such_library cannot be imported" in capsys.readouterr().err
    assert len(ran) == 4


def test_a_straight_line_is_found_and_a_bend_is_seen(table, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cost = importlib.import_module("cost")
    x = [1, 4, 16, 64]
    straight = cost.line(x, [2 + 3 * v for v in x])
    assert (straight["at_0"], straight["slope"]) == pytest.approx((2, 3)) and straight["off"] < 1e-9
    bent = cost.line(x, [2 + 3 * v + 0.05 * v**2 for v in x])
    assert 0.1 < bent["off"] < 1
    # relative squares: a small value counts as much as a large one; written out for two points and a mean
    two_at_0 = cost.line([0, 0, 1], [1, 1.1, 5])
    assert two_at_0["at_0"] == pytest.approx(mean := (1 + 1 / 1.1) / (1 + 1 / 1.21))
    assert two_at_0["off"] == pytest.approx(1 - mean / 1.1)  # the largest of 4.5%, 5.0% and nothing

    point = {"workers_mb": 1, "opening_seconds": 1.0, "images_a_second": 1.0}
    series = {"image_size": {v: point | {"seconds_an_update": 1 + v**2, "peak_mb": 1 + v**2} for v in x},
              "width": {v: point | {"seconds_an_update": 1 + v**2, "peak_mb": 1 + v} for v in x},
              "batch": {v: point | {"seconds_an_update": 1 + v, "peak_mb": 1 + v**2} for v in x}}
    found = {"series": series, "lines": cost.lines(series), "batch_size": 32, "date": "2026-01-02", "cpu": "a CPU"}
    rows = list(table.cost(found))
    assert [row.met for row in rows] == [True, True, True, True, True, False]
    assert rows[0].ours == "1,000 + 1,000,000 for 1,000 pixels, off by at most 0%"


def test_cost_writes_files_that_are_read_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cost = importlib.import_module("cost")
    cost.write_files(tmp_path / "digits", 3)
    found = cost.load_images(tmp_path / "digits", image_size=28, channels=1)
    assert (found.images == cost.load_digits().images[:3]).all()
