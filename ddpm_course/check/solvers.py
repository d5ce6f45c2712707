"""Exercises of chapter 14."""
import math
from collections.abc import Callable

from torch import Tensor

from . import small
from .exercise import Exercise

Level = tuple[float, float]


def _ddim(x: Tensor, x0: Tensor, now: Level, after: Level) -> Tensor:
    (a, s), (a_after, s_after) = now, after
    return s_after / s * x + (a_after - s_after / s * a) * x0


def _further(x0: Tensor, x0_before: Tensor, lengths: tuple[float, float, float]) -> Tensor:
    "The estimate in the middle of the move, where a level's place is what `lengths` says."
    start, now, end = lengths
    return x0 + (end - now) / (2 * (now - start)) * (x0 - x0_before)


def _half_log_snr(levels: tuple[Level, Level, Level]) -> tuple[float, ...]:
    return tuple(math.log(a / s) for a, s in levels)


def _move(guess: Callable) -> Callable:
    "A move with `guess(x0, x0_before, h, h_before)`; h are the lengths of the moves in half log-SNR."
    def move(x: Tensor, x0: Tensor, x0_before: Tensor, levels: tuple[Level, Level, Level]) -> Tensor:
        start, now, end = _half_log_snr(levels)
        return _ddim(x, guess(x0, x0_before, end - now, now - start), levels[1], levels[2])
    return move


def _with_lengths_in(place: Callable) -> Callable:
    "A move whose lengths are differences of `place(a, s)`."
    def move(x: Tensor, x0: Tensor, x0_before: Tensor, levels: tuple[Level, Level, Level]) -> Tensor:
        return _ddim(x, _further(x0, x0_before, tuple(place(a, s) for a, s in levels)), levels[1], levels[2])
    return move


def _with_the_old_noise(x: Tensor, x0: Tensor, x0_before: Tensor, levels: tuple[Level, Level, Level]) -> Tensor:
    (a, s), (a_after, s_after) = levels[1:]
    return a_after * _further(x0, x0_before, _half_log_snr(levels)) + s_after * (x - a * x0) / s


def _without_a_move(x: Tensor, x0: Tensor, x0_before: Tensor, levels: tuple[Level, Level, Level]) -> Tensor:
    return _further(x0, x0_before, _half_log_snr(levels))


def _the_move_before(x: Tensor, x0: Tensor, x0_before: Tensor, levels: tuple[Level, Level, Level]) -> Tensor:
    return _ddim(x, _further(x0, x0_before, _half_log_snr(levels)), levels[0], levels[1])


def _cases() -> list[tuple]:
    levels = [tuple((ab**0.5, (1 - ab) ** 0.5) for ab in three) for three in ((0.1, 0.2, 0.6), (0.4, 0.8, 0.9))]
    return [(small.normal(2, 1, 3, 3), small.images(2, 1, 3, 3, seed=1), small.images(2, 1, 3, 3, seed=2), three)
            for three in levels]


dpmpp_move = Exercise(
    "dpmpp_move", "14", "(x, x0, x0_before, levels), levels being (a, s) before, now and after the move",
    reference=_move(lambda x0, old, h, h_old: x0 + h / (2 * h_old) * (x0 - old)),
    cases=_cases,
    mistakes={
        "this is DDIM's move: the earlier estimate is not used": _move(lambda x0, old, h, h_old: x0),
        "the ratio of the two moves is upside down: a long move extrapolates further":
            _move(lambda x0, old, h, h_old: x0 + h_old / (2 * h) * (x0 - old)),
        "a half is missing: the estimate is wanted in the middle of the move, not at its end":
            _move(lambda x0, old, h, h_old: x0 + h / h_old * (x0 - old)),
        "the two moves are taken to be equally long: they are measured in log-SNR":
            _move(lambda x0, old, h, h_old: x0 + 0.5 * (x0 - old)),
        "the step leads back towards the earlier estimate: the sign of the difference is wrong":
            _move(lambda x0, old, h, h_old: x0 - h / (2 * h_old) * (x0 - old)),
        "the moves' lengths are differences of a / s: take its logarithm": _with_lengths_in(lambda a, s: a / s),
        "the moves' lengths are differences of s / a: take those of log(a / s)": _with_lengths_in(lambda a, s: s / a),
        "this is the new estimate: the move (14.4) that uses it is missing": _without_a_move,
        "this moves from the first level to the second: x is at the second, and the move leads to the third":
            _the_move_before,
        "the noise is that of x0 before the extrapolation: in (14.8) the new estimate stands in both places":
            _with_the_old_noise,
        "the two estimates are exchanged": _move(lambda x0, old, h, h_old: old + h / (2 * h_old) * (old - x0)),
        "this is the mean of both estimates, which lies behind the move; extrapolate":
            _move(lambda x0, old, h, h_old: (x0 + old) / 2)},
    compared="(14.8) for two moves, one longer than the move before it and one shorter")
