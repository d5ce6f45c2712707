"""What an exercise is, how the reader's answer is compared, and the verdict that comes out."""
import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .record import remember


@dataclass(frozen=True)
class Verdict:
    """
    What a check found; as a condition it is true where the answer is right.

    `text`: what was printed. `mistake`: the sentence that names the likely mistake, where one was recognised.
    """
    right: bool
    text: str
    mistake: str | None = None

    def __bool__(self) -> bool:
        return self.right

    def _ipython_display_(self) -> None:
        "Nothing: the text was printed already, and a notebook would show it twice."


@dataclass(frozen=True)
class Exercise:
    """
    A piece that the reader writes: `exercise(mine)` runs it, prints what it found and returns the `Verdict`.

    `name`, `chapter`, `signature`: what to write, and where. `reference`: a right solution. `cases`: makes the inputs
    anew, the same each time, one tuple of arguments a case. `mistakes`: sentences, each with the wrong variant, or
    several, that people write. `compared`: what a right answer was compared with. `also`: other right solutions.
    `otherwise(mine)`: a second opinion on an answer that differs; a sentence that says why it is right all the same.
    `probe(function, *case)`: what is observed of the function, by default what it returns; a dictionary of observations
    is compared entry by entry. `returns`: names for the parts of a returned tuple. `stretch`: a shape that torch
    stretches to the expected one will do. `tolerance`: the relative error that rounding may leave.
    """
    name: str
    chapter: str
    signature: str
    reference: Callable
    cases: Callable[[], Sequence[tuple]]
    mistakes: Mapping[str, Callable | tuple[Callable, ...]]
    compared: str
    also: Mapping[str, Callable] = field(default_factory=dict)
    otherwise: Callable[[Callable], str | None] = lambda mine: None
    probe: Callable[..., Any] = lambda function, *case: function(*case)
    returns: tuple[str, ...] = ()
    stretch: bool = False
    tolerance: float = 1e-4

    def __call__(self, mine: Callable, *, record: bool = True) -> Verdict:
        "Check the reader's `mine`. `record`: whether `check.progress()` shall know of a right answer."
        if not callable(mine):
            return self._say(False, f"this is {type(mine).__name__}, expected your function itself, without calling it")
        given, kept, expected = self.cases(), self.cases(), self.outcomes(self.reference)
        found = [self._outcome(mine, case) for case in given]
        if all(unwritten(each) for each in found):
            what = "not written yet" if a_stub(mine) else "it returns nothing; a `return` is missing"
            return self._say(False, f"{what}. It is {self.name}{self.signature}")
        if argument := self._changed(given, kept):
            return self._say(False, f"it changes {argument} in place, and whoever called it goes on with that; make a "
                                    f"new tensor")
        if all(map(self._same, found, expected)):
            return self._right(self.compared, record)
        for how, solution in self.also.items():
            if all(map(self._same, found, self.outcomes(solution))):
                return self._right(f"{self.compared}, {how}", record)
        for sentence in self.mistakes:
            if any(all(map(self._same, found, self.outcomes(variant))) for variant in self.variants(sentence)):
                return self._say(False, sentence, sentence)
        if stopped := [each for each in found if isinstance(each, Exception)]:
            called = f". It is called as {self.name}{self.signature}"
            return self._say(False, where_it_stopped(stopped[0], file_of(mine), called))
        if reason := self.otherwise(mine):
            return self._right(reason, record)
        i = [self._same(*both) for both in zip(found, expected)].index(False)
        case = f"case {i + 1} of {len(found)}: " if len(found) > 1 else ""
        return self._say(False, case + self._difference(found[i], expected[i]))

    def outcomes(self, function: Callable) -> list:
        "What is observed of `function` in each case, as a dictionary, or the exception that stopped it."
        return [self._outcome(function, case) for case in self.cases()]

    def variants(self, sentence: str) -> tuple[Callable, ...]:
        "The wrong solutions that `sentence` is said to."
        wrong = self.mistakes[sentence]
        return wrong if isinstance(wrong, tuple) else (wrong,)

    def _outcome(self, function: Callable, case: tuple):
        try:
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                return self._parts(self.probe(function, *case))
        except Exception as stopped:  # whatever the reader's code may raise
            return stopped

    def _parts(self, result) -> dict[str, Any]:
        if isinstance(result, dict):
            return result
        several = isinstance(result, (tuple, list)) and self.returns
        names = self.returns if several and len(result) == len(self.returns) else map(str, range(99))
        return dict(zip(names, result)) if several else {"": result}

    def _changed(self, given: Sequence[tuple], kept: Sequence[tuple]) -> str | None:
        "The name of the argument that the function has written to, if any: `kept` are the same inputs, never given."
        names = self.signature[1:].partition(")")[0].split(", ")
        for case, same in zip(given, kept):
            for name, after, before in zip(names[-len(case):], case, same):
                if isinstance(before, Tensor) and not torch.equal(after, before):
                    return name
        return None

    def _same(self, found, expected) -> bool:
        if isinstance(found, Exception) or isinstance(expected, Exception):
            return type(found) is type(expected)
        return found.keys() == expected.keys() and all(self._difference_of(found[k], expected[k]) is None
                                                       for k in expected)

    def _difference(self, found: dict, expected: dict) -> str:
        "Where an answer differs, in one line: the first part that is not as expected."
        if found.keys() != expected.keys():
            returned = f"one thing, {type(found['']).__name__}" if "" in found else f"{len(found)} things"
            return f"it returns {returned}, expected {len(expected)}: {', '.join(expected)}"
        name, words = next((name, words) for name in expected
                           if (words := self._difference_of(found[name], expected[name])))
        return f"{name}: {words}" if name else words

    def _difference_of(self, found, expected) -> str | None:
        "How one part differs from what is expected, or None."
        if not isinstance(expected, (Tensor, float)):
            return None if found == expected else f"{found}, expected {expected}"
        if isinstance(found, (bool, str)) or not isinstance(found, (Tensor, int, float)):
            return f"this is {type(found).__name__}, expected a tensor or a number"
        found, expected = torch.as_tensor(found).detach().cpu(), torch.as_tensor(expected).detach()
        if found.shape != expected.shape:
            if not (self.stretch and stretches(found, expected)):
                return (f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
                        + ", or one that torch stretches to it" * self.stretch)
            found = found.expand(expected.shape)
        if found.is_complex():
            return f"dtype {found.dtype}, expected real numbers; `.real` takes the real part"
        if expected.is_floating_point() and not found.is_floating_point():
            return f"dtype {found.dtype}, expected floating point"
        found, expected = found.double(), expected.double()
        if torch.allclose(found, expected, rtol=self.tolerance, atol=1e-5 * float(expected.abs().nan_to_num().max()),
                          equal_nan=True):
            return None
        if bad := int((~found.isfinite() & expected.isfinite()).sum()):
            return f"{bad} of {found.numel()} values are NaN or infinite"
        return how_far(found, expected)

    def _right(self, words: str, record: bool) -> Verdict:
        if record:
            remember(self.name)
        return self._say(True, f"right: {words}")

    def _say(self, right: bool, words: str, mistake: str | None = None) -> Verdict:
        return pronounce(self.name, right, words, mistake)


def pronounce(name: str, right: bool, words: str, mistake: str | None = None) -> Verdict:
    "Print a verdict and return it."
    stop = "" if "\n" in words or words.endswith("?") else "."  # a line of code has none
    verdict = Verdict(right, f"{name}: {words}{stop}", mistake)
    print(verdict.text)
    return verdict


def unwritten(outcome) -> bool:
    "Whether this is what a stub does: nothing, or saying so."
    nothing = isinstance(outcome, dict) and all(value is None or value is ... for value in outcome.values())
    return isinstance(outcome, NotImplementedError) or nothing


def a_stub(mine: Callable) -> bool:
    """
    Whether a function, or the `forward` of a class, does nothing at all, or raises NotImplementedError.

    Nothing: its code is no longer than an empty one's.
    """
    code = getattr(getattr(mine, "forward", mine), "__code__", None)
    empty = len((lambda: None).__code__.co_code)
    return code is None or "NotImplementedError" in code.co_names or len(code.co_code) <= empty


def stretches(found: Tensor, expected: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(found.shape, expected.shape) == expected.shape
    except RuntimeError:
        return False


def how_far(found: Tensor, expected: Tensor) -> str:
    "The largest error and where it is; and a common factor, which often says all."
    error = (found - expected).abs()
    ratio = (found / expected)[expected != 0]
    if ratio.numel() > 1 and torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3):
        return f"every value is {ratio[0]:.4g} times what is expected"
    at = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
    mine, wanted = found[tuple(at)], expected[tuple(at)]
    return f"values are off by up to {error.max():.3g}: {mine:.4g}{f' at {at}' if at else ''}, expected {wanted:.4g}"


def where_it_stopped(stopped: Exception, file: str, otherwise: str = "") -> str:
    "The exception, and the last line of the reader's own `file`, or cell, that it passed through; `otherwise` if none."
    own = [frame.lineno for frame in traceback.extract_tb(stopped.__traceback__) if frame.filename == file]
    line = f"\n  line {own[-1]} of your code: {linecache.getline(file, own[-1]).strip()}" if own else otherwise
    return f"it stopped with {type(stopped).__name__}: {stopped}".rstrip(".") + line


def file_of(mine: Callable) -> str:
    "The file, or the cell of a notebook, that a function or a class was written in."
    written = next((part for part in vars(mine).values() if hasattr(part, "__code__")), mine) \
        if isinstance(mine, type) else mine
    return getattr(getattr(written, "__code__", None), "co_filename", "")
