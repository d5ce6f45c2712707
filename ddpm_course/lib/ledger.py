"""Every numbered equation of the course, what was compared to check it, and how closely it held."""
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor


def allowed_sigmas(compared: int, false_alarm: float = 1e-4) -> float:
    "How many standard errors the worst of `compared` correct means may be off (equation L.1)."
    return -NormalDist().inv_cdf(false_alarm / 2 / compared)


@dataclass(frozen=True)
class Comparison:
    "One comparison: `how` it was made, numbers `compared`, largest `error`, largest `allowed` error, and their `unit`."
    how: str
    compared: int
    error: float
    allowed: float
    unit: str

    @property
    def share(self) -> float:
        "The error as a share of what is allowed; 0 where nothing was allowed and nothing was off."
        return self.error / self.allowed if self.allowed else 0.0


def _numbers(x) -> Tensor:
    x = x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=torch.float64)  # by default 0.1 would become a float32
    return x.detach().cpu().double()


class _Comparisons:
    "The comparisons of one equation so far: each is recorded, or raises `AssertionError`."
    def __init__(self, number: str, claim: str, symbol: str = ""):
        self.number, self.claim, self.symbol, self.comparisons = number, claim, symbol, []

    def _record(self, how: str, errors: Tensor, allowed: float, unit: str, got: Tensor, expected: Tensor) -> None:
        if errors.numel() == 0:
            raise AssertionError(f"({self.number}) {self.claim}: nothing was compared")
        errors = errors.nan_to_num(nan=float("inf"))  # NaN agrees with nothing
        worst = int(errors.argmax())
        error = errors.flatten()[worst].item()
        if error > allowed:
            got, expected = (x.expand(errors.shape).flatten()[worst].item() for x in (got, expected))
            raise AssertionError(
                f"({self.number}) {self.claim}: number {worst} of {errors.numel()} is {got:.6g}, expected "
                f"{expected:.6g}; off by {error:.3g} {unit}, allowed {allowed:.3g}"
            )
        self.comparisons.append(Comparison(how, errors.numel(), error, allowed, unit))

    def _pair(self, got, expected) -> tuple[Tensor, Tensor]:
        got, expected = _numbers(got), _numbers(expected)
        if expected.ndim and got.shape != expected.shape:
            raise AssertionError(f"({self.number}) {self.claim}: shape {tuple(got.shape)} is compared with "
                                 f"{tuple(expected.shape)}, expected the same shape or one number")
        return got, expected

    def _sampled(self, got: Tensor, expected, standard_error: Tensor) -> None:
        got, expected = self._pair(got, expected)
        difference = (got - expected).abs()
        errors = torch.where(difference == 0, difference, difference / standard_error)
        self._record("Monte Carlo", errors, allowed_sigmas(max(errors.numel(), 1)), "standard errors", got, expected)


class Equation(_Comparisons):
    """
    The checks of one numbered equation. Each method compares, and raises `AssertionError` at the first disagreement.

    `number`: as in its tag, "2.6". `claim`: what the check shows, in one line. `symbol`: the public name that
    implements the equation, as "forward.NoiseSchedule.q_sample", or "".
    """
    def close(self, got, expected, *, rtol: float | None = None, atol: float | None = None,
              how: str = "closed form") -> None:
        "`got` equals `expected` (same shape, or one number) to `rtol` relative or `atol` absolute, one of the two."
        if (rtol is None) == (atol is None):
            raise ValueError(f"rtol is {rtol} and atol is {atol}, expected exactly one of them")
        got, expected = self._pair(got, expected)
        difference = (got - expected).abs()
        if atol is not None:
            return self._record(how, difference, atol, "absolute", got, expected)
        errors = torch.where(difference == 0, difference, difference / expected.abs())
        self._record(how, errors, rtol, "relative", got, expected)

    def mean(self, draws: Tensor, expected) -> None:
        "The mean of `draws` (n, ...) over its first axis is `expected` (...), within what chance allows."
        draws = _numbers(draws)
        self._sampled(draws.mean(0), expected, draws.std(0) / len(draws) ** 0.5)

    def variance(self, draws: Tensor, expected) -> None:
        "The variance of `draws` (n, ...) over its first axis is `expected` (...), within what chance allows."
        draws = _numbers(draws)
        squares = (draws - draws.mean(0)).square()
        self._sampled(draws.var(0), expected, squares.std(0) / len(draws) ** 0.5)

    def symbolic(self, got, expected) -> None:
        "Two sympy expressions are the same by algebra."
        import sympy  # comes with torch; needed here alone, and slow to load

        difference = sympy.simplify(got - expected)
        if difference != 0:
            raise AssertionError(f"({self.number}) {self.claim}: the two sides differ by {difference}")
        self.comparisons.append(Comparison("symbolic", 1, 0.0, 0.0, "exact"))

    def above(self, larger, smaller, *, standard_error=0.0) -> None:
        "`larger` lies above `smaller` everywhere; where it was sampled, by more than chance could explain."
        larger, smaller = self._pair(larger, smaller)
        margin = larger - smaller - allowed_sigmas(max(larger.numel(), 1)) * _numbers(standard_error)
        self._record("inequality", (~(margin > 0)).double(), 0.0, "violations", larger, smaller)


@contextmanager
def equation(number: str, claim: str, *, symbol: str = "", folder: str | Path | None = None) -> Iterator[Equation]:
    """
    Check a numbered equation: `with equation("2.6", "one jump equals 500 steps") as eq: eq.close(...)`.

    Prints what was shown, and writes an entry to the chapter's file in `folder`, by default the one that the variable
    DDPM_COURSE_LEDGER names; without either, nothing is written. `AssertionError` where the sides disagree, nothing was
    compared, or `watch_calls` is at work and the cell has not called `symbol`.
    """
    check = Equation(number, claim, symbol)
    yield check
    if not check.comparisons:
        raise AssertionError(f"({number}) {claim}: nothing was compared")
    name = symbol.removeprefix("lib.").partition(".")[2]  # without its module
    if name and not name.isupper() and sys.getprofile() is _note and not _was_called(name):
        raise AssertionError(f"({number}) {claim}: {symbol} was not called in this cell, so nothing was shown about it")
    entry = _entry(check)
    line = f"({number}) {claim}: {_result(entry)}"  # JupyterLab would break a long one within a word
    print(textwrap.fill(line, 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
    folder = folder or os.environ.get("DDPM_COURSE_LEDGER")
    if folder:
        _write(Path(folder), entry)


_called: set[str] = set()  # the qualified names of the functions that the running cell has called


def watch_calls(shell) -> None:
    "From the next cell of this IPython `shell` on, let `equation` refuse a symbol that its cell has not called."
    def begin(info) -> None:
        _called.clear()
        sys.setprofile(_note if "symbol=" in (info.raw_cell or "") else None)

    if hasattr(_note.__code__, "co_qualname"):  # Python 3.11 and later
        shell.events.register("pre_run_cell", begin)
        shell.events.register("post_run_cell", lambda result: sys.setprofile(None))


def _note(frame, event: str, arg) -> None:
    if event == "call":
        _called.add(frame.f_code.co_qualname)


def _was_called(name: str) -> bool:
    "Whether a function, or any method of a class, of this name has run: in the package, or in the chapter itself."
    return any(called == name or called.startswith(name + ".") for called in _called.copy())


def _entry(check: Equation) -> dict:
    worst = max(check.comparisons, key=lambda c: c.share)
    how = ", ".join(dict.fromkeys(c.how for c in check.comparisons))
    total = sum(c.compared for c in check.comparisons)
    return {"equation": check.number, "claim": check.claim, "symbol": check.symbol, **asdict(worst),
            "how": how, "compared": total}


def _result(entry: dict) -> str:
    numbers = f"{entry['compared']:,} number{'s' * (entry['compared'] > 1)}, {entry['how']}"
    if entry["unit"] in ("exact", "violations"):
        return numbers
    if entry["error"] == entry["allowed"] == 0:
        return f"{numbers}, equal to the bit"
    if entry["unit"] == "standard errors":
        return f"{numbers}, off by {entry['error']:.1f} of {entry['allowed']:.1f} standard errors allowed"
    return f"{numbers}, {entry['unit']} error {entry['error']:.1e} of {entry['allowed']:.0e} allowed"


def _write(folder: Path, entry: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"chapter-{entry['equation'].split('.')[0]}.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    same = (entry["equation"], entry["claim"])
    entries = [e for e in entries if (e["equation"], e["claim"]) != same] + [entry]
    text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8", errors="backslashreplace")  # bytes that are no UTF-8, as JSON writes them


def find_equations(folder: str | Path) -> dict[str, str]:
    "The numbered equations in the notebooks under `folder`: number -> path of the notebook."
    places = {}
    for path in sorted(Path(folder).rglob("[!.]*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                for number in re.findall(r"\\tag\{([\w.]+)\}", "".join(cell["source"])):
                    places[number] = path.relative_to(folder).as_posix()
    return places


def equation_order(entry: dict) -> tuple:
    "A sort key for entries: chapters by number, then appendices by letter; within each, by number."
    chapter, _, number = entry["equation"].partition(".")
    return (not chapter.isdigit(), int(chapter) if chapter.isdigit() else chapter, int(number))


def read_ledger(path: str | Path) -> list[dict]:
    "The entries of a ledger, in the order of the equations; of a file, or of all chapters' files in a folder."
    path = Path(path)
    files = path.glob("chapter-*.json") if path.is_dir() else [path]
    return sorted((e for file in files for e in json.loads(file.read_text(encoding="utf-8"))), key=equation_order)


def _cell(text: str) -> str:
    "A text as one cell of a Markdown table, which a line break or a bar of its own would end."
    return " ".join(text.split()).replace("|", r"\|")


def ledger_table(entries: list[dict], places: dict[str, str], base: str = "") -> str:
    "The ledger as a Markdown table; each number links to its equation, with `base` before the notebook's path."
    lines = ["| equation | what was shown | in code | how, and how closely |", "|---|---|---|---|"]
    for entry in entries:
        link = f"{base}{places[entry['equation']]}#cell-id=eq-{entry['equation'].replace('.', '-')}"
        symbol = f"`{entry['symbol']}`" if entry["symbol"] else ""
        cells = f"[{entry['equation']}]({link})", entry["claim"], symbol, _result(entry)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


if "DDPM_COURSE_LEDGER" in os.environ and "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
    watch_calls(shell)  # a run that writes entries
