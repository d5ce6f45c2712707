"""The ledger: what a check of an equation compares, prints and writes, and the table that is made of it."""
import html
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import sympy
import torch
from nbconvert.filters import markdown2html

from ddpm_course.lib import ledger
from ddpm_course.lib.ledger import (_numbers, allowed_sigmas, equation, equation_order, find_equations, ledger_table,
                                    read_ledger)

NOTEBOOKS = Path(__file__).parent.parent / "nbs"


@pytest.fixture
def draws():
    return 0.5 + 2 * torch.randn(20_000, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 10, 784, 100_000])
def test_the_worst_of_n_correct_means_raises_one_false_alarm_in_10_000_checks(n):
    tail = torch.special.ndtr(torch.tensor(-allowed_sigmas(n), dtype=torch.float64)).item()
    assert 2 * n * tail == pytest.approx(1e-4, rel=1e-6)
    assert allowed_sigmas(n, false_alarm=1e-2) == pytest.approx(allowed_sigmas(100 * n, false_alarm=1.0))


def test_python_numbers_keep_their_digits():
    assert _numbers([0.1]) == torch.tensor(0.1, dtype=torch.float64)


@pytest.mark.parametrize("method, truth, standard_error", [  # of 20,000 normal draws with the standard deviation 2
    ("mean", 0.5, 2 / 20_000**0.5), ("variance", 4.0, 4 * (2 / 20_000) ** 0.5)])
def test_random_draws_are_compared_in_standard_errors(tmp_path, draws, method, truth, standard_error):
    with equation("0.1", "a claim", folder=tmp_path) as eq:
        getattr(eq, method)(draws, torch.full((30,), truth))
    (entry,) = read_ledger(tmp_path)
    found = {"mean": draws.double().mean(0), "variance": draws.double().var(0)}[method]
    worst = (found - truth).abs().max().item() / standard_error
    assert entry["error"] == pytest.approx(worst, rel=0.05)  # the check estimates the standard error from the draws
    assert entry["error"] < entry["allowed"] == allowed_sigmas(30) and entry["unit"] == "standard errors"


def test_an_entry_counts_the_numbers_of_all_comparisons(tmp_path, draws, capsys):
    with equation("0.1", "draws have the mean 0.5 and the variance 4", symbol="data.draws", folder=tmp_path) as eq:
        eq.mean(draws, torch.full((30,), 0.5))
        eq.variance(draws, 4.0)
    (entry,) = read_ledger(tmp_path)
    error, allowed = entry.pop("error"), entry.pop("allowed")
    assert entry == {"equation": "0.1", "claim": "draws have the mean 0.5 and the variance 4", "symbol": "data.draws",
                     "how": "Monte Carlo", "compared": 60, "unit": "standard errors"}
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(line.strip() for line in lines) == (
        "(0.1) draws have the mean 0.5 and the variance 4: 60 numbers, Monte Carlo, "
        f"off by {error:.1f} of {allowed:.1f} standard errors allowed")
    assert len(lines) == 2 and max(map(len, lines)) <= 100  # JupyterLab would break a longer one within a word


def test_a_claim_that_is_checked_again_replaces_its_entry_and_no_other(tmp_path):
    for claim, larger in (("one", 2.0), ("two", 2.0), ("one", 3.0)):
        with equation("0.1", claim, folder=tmp_path) as eq:
            eq.above(larger, 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["chapter-0.json"]
    assert sorted(e["claim"] for e in read_ledger(tmp_path)) == ["one", "two"]


@pytest.mark.parametrize("compare, result", [
    (lambda eq: eq.close(1 + 1e-9, 1.0, rtol=1e-6), "1 number, closed form, relative error 1.0e-09 of 1e-06 allowed"),
    (lambda eq: eq.close([2.0, 0.25], [2.0, 0.0], atol=0.5),
     "2 numbers, closed form, absolute error 2.5e-01 of 5e-01 allowed"),
    (lambda eq: eq.close([0.0, 0.25], [0.0, 0.25], rtol=0.0), "2 numbers, closed form, equal to the bit"),
    (lambda eq: eq.close(torch.ones(1000), 1.0, atol=0.0, how="brute force"),
     "1,000 numbers, brute force, equal to the bit"),
    (lambda eq: eq.above(2.0, 1.0, standard_error=0.1), "1 number, inequality"),
    (lambda eq: eq.symbolic((sympy.Symbol("a") + 1) ** 2, sympy.sympify("a**2 + 2*a + 1")), "1 number, symbolic")])
def test_each_kind_of_comparison_says_how_and_how_closely(tmp_path, capsys, compare, result):
    with equation("0.2", "a claim", folder=tmp_path) as eq:
        compare(eq)
    assert capsys.readouterr().out == f"(0.2) a claim: {result}\n"
    assert len(read_ledger(tmp_path)) == 1


def test_the_comparison_that_came_closest_to_its_bound_stands_for_all(tmp_path, capsys):
    with equation("0.2", "a claim", folder=tmp_path) as eq:
        eq.close(1.5, 1.0, atol=100.0)
        eq.close(1.01, 1.0, rtol=0.02, how="autograd")
        eq.close(2.0, 1.0, atol=10.0)
    (entry,) = read_ledger(tmp_path)
    assert (entry["unit"], entry["allowed"], entry["compared"]) == ("relative", 0.02, 3)
    assert entry["error"] == pytest.approx(0.01) and entry["how"] == "closed form, autograd"


def test_entries_go_to_the_folder_that_the_environment_names_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (None, "ledger"):
        monkeypatch.delenv("DDPM_COURSE_LEDGER", raising=False)
        if folder:
            monkeypatch.setenv("DDPM_COURSE_LEDGER", folder)
        with equation("7.3", "a claim") as eq:
            eq.above(2.0, 1.0)
        assert [p.name for p in tmp_path.iterdir()] == [folder] * bool(folder)
    assert [p.name for p in (tmp_path / "ledger").iterdir()] == ["chapter-7.json"]


def test_a_claim_that_does_not_hold_leaves_no_entry(tmp_path):
    for check in (lambda eq: eq.close([1.0, 2.0], [1.0, 2.1], rtol=1e-3), lambda eq: None):
        with pytest.raises(AssertionError), equation("0.1", "a claim", folder=tmp_path) as eq:
            check(eq)
    assert not list(tmp_path.iterdir())


def test_an_equation_is_found_in_the_notebook_of_its_tag(tmp_path):
    def notebook(path, *cells):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cells = [{"cell_type": kind, "source": source.splitlines(keepends=True)} for kind, source in cells]
        (tmp_path / path).write_text(json.dumps({"cells": cells}), encoding="utf-8")

    notebook("02_forward.ipynb", ("markdown", "# Title\n\n## 2.1 One step\n$$ x \\tag{2.1} $$\n$$ y \\tag{2.2} $$"),
             ("code", "# \\tag{9.9}\n## no heading"), ("markdown", "### Smaller\n$$ z \\tag{2.3} $$"),
             ("markdown", "## Späte Schritte\n$$ z \\tag{2.10} $$"))
    notebook("appendix/ledger.ipynb", ("markdown", "$$ N \\tag{L.1} $$"))
    notebook("appendix/.hidden.ipynb", ("markdown", "$$ N \\tag{8.1} $$"))
    notebook(".ipynb_checkpoints/02_forward-checkpoint.ipynb", ("markdown", "$$ N \\tag{8.2} $$"))
    assert find_equations(tmp_path) == {
        "2.1": "02_forward.ipynb", "2.2": "02_forward.ipynb", "2.3": "02_forward.ipynb", "2.10": "02_forward.ipynb",
        "L.1": "appendix/ledger.ipynb"}


def test_entries_are_read_from_a_file_or_a_folder_in_the_order_of_the_equations(tmp_path):
    numbers = ("L.1", "10.2", "C.10", "2.10", "C.9", "2.9")
    ordered = [{"equation": n} for n in ("2.9", "2.10", "10.2", "C.9", "C.10", "L.1")]
    assert sorted(({"equation": n} for n in numbers), key=equation_order) == ordered
    (tmp_path / "ledger.json").write_text(json.dumps([{"equation": n} for n in numbers]))
    assert read_ledger(tmp_path / "ledger.json") == ordered
    (tmp_path / "chapters").mkdir()
    for n in numbers:
        (tmp_path / "chapters" / f"chapter-{n}.json").write_text(json.dumps([{"equation": n}]))
    (tmp_path / "chapters" / "notes.json").write_text(json.dumps([{"equation": "1.1"}]))
    assert read_ledger(tmp_path / "chapters") == ordered


def rows(table):
    "The cells of a Markdown table, row by row, as a page shows them."
    page = markdown2html(table)
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
            for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)][1:]


def test_the_table_links_each_number_to_its_equation():
    entry = {"equation": "2.6", "claim": "one jump", "symbol": "forward.q_sample", "how": "closed form",
             "compared": 2, "error": 0.0, "allowed": 0.0, "unit": "absolute"}
    places = {"2.6": "02_forward.ipynb", "L.1": "appendix/ledger.ipynb"}
    assert ledger_table([entry, entry | {"equation": "L.1", "symbol": ""}], places, base="../").splitlines() == [
        "| equation | what was shown | in code | how, and how closely |",
        "|---|---|---|---|",
        "| [2.6](../02_forward.ipynb#cell-id=eq-2-6) | one jump | `forward.q_sample` | "
        "2 numbers, closed form, equal to the bit |",
        "| [L.1](../appendix/ledger.ipynb#cell-id=eq-L-1) | one jump |  | 2 numbers, closed form, equal to the bit |"]


@pytest.mark.parametrize("claim, shown", [
    ("the mean of q(x | y) is E[x|y]", "the mean of q(x | y) is E[x|y]"), ("||x||", "||x||"),
    ("first line\nsecond line", "first line second line"), ("ends in |", "ends in |")])
def test_a_claim_with_bars_or_line_breaks_stays_in_its_cell(claim, shown):
    entry = {"equation": "2.6", "claim": claim, "symbol": "forward.a|b", "how": "by hand|eye",
             "compared": 1, "error": 0.0, "allowed": 0.0, "unit": "exact"}
    (row,) = rows(ledger_table([entry], {"2.6": "02_forward.ipynb"}))
    place, claim, symbol, result = row
    assert claim == shown and result == "1 number, by hand|eye"
    assert symbol.replace("\\", "") == "<code>forward.a|b</code>"  # GitHub drops the backslash in code, others show it
    assert unquote(place) == '<a href="02_forward.ipynb#cell-id=eq-2-6">2.6</a>'


def test_every_row_of_the_course_has_four_cells():
    entries = read_ledger(NOTEBOOKS / "appendix" / "ledger.json")
    found = rows(ledger_table(entries, find_equations(NOTEBOOKS)))
    assert len(found) == len(entries) and {len(row) for row in found} == {4}


def test_a_symbol_that_the_cell_has_not_called_is_refused_while_calls_are_watched(tmp_path):
    if not hasattr(ledger.watch_calls.__code__, "co_qualname"):
        pytest.skip("qualified names of code came with Python 3.11")
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell()
    shell.user_ns["folder"] = tmp_path
    imports = "from ddpm_course.lib import ledger; from ddpm_course.forward import NoiseSchedule; import torch\n"
    check = """schedule = NoiseSchedule(torch.tensor([0.1, 0.2]))
with ledger.equation("2.6", "the first level", symbol="forward.NoiseSchedule.{}", folder=folder) as eq:
    eq.close(schedule.alpha_bar(0), 0.9, rtol=1e-6)"""
    assert shell.run_cell(imports + check.format("snr")).success  # nobody watches
    ledger.watch_calls(shell)
    assert shell.run_cell(check.format("alpha_bar")).success and sys.getprofile() is None
    refused = shell.run_cell(check.format("snr")).error_in_exec
    assert isinstance(refused, AssertionError)
    assert "forward.NoiseSchedule.snr was not called in this cell" in str(refused)
    elsewhere = "with ledger.equation('2.6', 'x', symbol='forward.NoiseSchedule.alpha_bar', folder=folder) as eq:"
    assert not shell.run_cell(f"{elsewhere}\n    eq.close(0.9, 0.9, rtol=1e-6)").success  # what another cell has called
