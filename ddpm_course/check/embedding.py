"""Exercises of chapter 06."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .exercise import Exercise


def _angles(t: Tensor, dim: int, last: int = 1) -> Tensor:
    half = dim // 2
    return t.double()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / (half - last))


def _embedding(angles: Callable) -> Callable:
    "Sines, then cosines, of `angles(t, dim)`."
    return lambda t, dim: torch.cat([angles(t, dim).sin(), angles(t, dim).cos()], 1)


def _too_fast(sign: int = -1, factor: float = 1.0) -> tuple[Callable, ...]:
    "Hands that turn too fast, as people write them. So large an angle rounds to other sines with each way of writing."
    exponents = lambda dim: sign * torch.arange(dim // 2) / (dim // 2 - 1)
    return tuple(map(_embedding, (lambda t, dim: factor * t[:, None] * 10_000 ** exponents(dim),
                                  lambda t, dim: t[:, None] * (factor * 10_000 ** exponents(dim)),
                                  lambda t, dim: factor * (t[:, None] * 10_000 ** exponents(dim)),
                                  lambda t, dim: t[:, None] * torch.exp(math.log(10_000) * exponents(dim)) * factor,
                                  lambda t, dim: factor * t.double()[:, None] * 10_000 ** exponents(dim).double())))


time_embedding = Exercise(
    "time_embedding", "06", "(t, dim), which returns (B, dim): sines, then cosines",
    reference=_embedding(_angles),
    cases=lambda: [(torch.tensor([0, 1, 10, 999]), 8), (torch.arange(5), 32)],
    tolerance=1e-3,
    mistakes={
        "the cosines come first; here the sines do":
            lambda t, dim: torch.cat([_angles(t, dim).cos(), _angles(t, dim).sin()], 1),
        "the slowest frequency is not reached: the exponents go from 0 to 1, so divide by half - 1":
            _embedding(lambda t, dim: _angles(t, dim, last=0)),
        "sines and cosines alternate; expected all sines, then all cosines":
            (lambda t, dim: torch.stack([_angles(t, dim).sin(), _angles(t, dim).cos()], 2).flatten(1),
             lambda t, dim: torch.stack([_angles(t, dim).cos(), _angles(t, dim).sin()], 2).flatten(1),
             lambda t, dim: torch.stack([_angles(t, dim, 0).sin(), _angles(t, dim, 0).cos()], 2).flatten(1)),
        "these are the sines twice; the second half is of cosines":
            lambda t, dim: torch.cat([_angles(t, dim).sin(), _angles(t, dim).sin()], 1),
        "these are the sines of dim hands; expected half as many, and then their cosines":
            lambda t, dim: _angles(t, 2 * dim).sin(),
        "the sines have the wrong sign: these hands turn backwards": _embedding(lambda t, dim: -_angles(t, dim)),
        "the frequencies fall in equal steps; expected an equal factor from each to the next":
            _embedding(lambda t, dim: t.double()[:, None] * torch.linspace(1, 1e-4, dim // 2, dtype=torch.float64)),
        "there are dim hands here, and 2 dim numbers; expected half as many of each":
            _embedding(lambda t, dim: _angles(t, 2 * dim)),
        "the frequencies rise up to 10,000: the sign in the exponent is missing": _too_fast(sign=1),
        "this is the embedding of t + 1: t is the number that the code counts, from 0":
            _embedding(lambda t, dim: _angles(t + 1, dim)),
        "t is divided by 1000 first, and then all clocks stand nearly still: t is in steps":
            _embedding(lambda t, dim: _angles(t.double() / 1000, dim)),
        "the frequencies are in turns here (times 2 pi); they are in radians a step":
            _too_fast(factor=2 * math.pi),
        "these are the angles; their sines and cosines are asked for":
            lambda t, dim: torch.cat([_angles(t, dim), _angles(t, dim)], 1),
        "these are the sines alone, dim / 2 numbers; the cosines are missing": lambda t, dim: _angles(t, dim).sin()},
    compared="(6.3) at nine times, with 8 and with 32 numbers")
