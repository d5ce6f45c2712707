"""Exercises of chapter 05."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .exercise import Exercise


def _f(u: Tensor, s: float = 0.008, power: int = 2) -> Tensor:
    return torch.cos((u + s) / (1 + s) * math.pi / 2) ** power


def _times(n: int, T: int, dtype: torch.dtype = torch.float64) -> Tensor:
    "0, 1/T, 2/T, ...: n numbers."
    return torch.arange(n, dtype=dtype) / T


def _betas(f: Tensor) -> Tensor:
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def _either(*wrong: Callable) -> tuple[Callable, ...]:
    "Wrong betas in terms of T and of the times u = 0, 1/T, ..., 1, in float64 and in float32."
    return tuple(lambda T, each=each, dtype=dtype: each(T, _times(T + 1, T, dtype))
                 for each in wrong for dtype in (torch.float64, torch.float32))


def _observed(function: Callable, T: int) -> dict:
    "The betas, beyond -10 and 10 cut: the last of them may be -1e30 in a wrong answer, and no other would count."
    betas = function(T)
    if not isinstance(betas, Tensor):
        return {"": betas, "dtype": None}
    return {"": betas.clamp(-10, 10) if betas.is_floating_point() else betas, "dtype": str(betas.dtype)}


cosine_betas = Exercise(
    "cosine_betas", "05", "(T), which returns the betas, (T,)",
    reference=lambda T: _betas(_f(_times(T + 1, T))),
    cases=lambda: [(20,), (1000,)],
    tolerance=3e-4,
    probe=_observed,
    mistakes={
        "these are float32, where 1 minus a ratio close to 1 loses digits: expected float64, from the times on":
            lambda T: _betas(_f(_times(T + 1, T, torch.float32))),
        "the square of the cosine is missing": _either(lambda T, u: _betas(_f(u, power=1))),
        "the last beta is (nearly) 1: limit the betas to 0.999": _either(lambda T, u: 1 - _f(u)[1:] / _f(u)[:-1]),
        "the offset s = 0.008 is missing, so that the first betas are smaller than they should be":
            _either(lambda T, u: _betas(_f(u, s=0))),
        "brackets are missing: the angle is (u + s) / (1 + s) times pi / 2, and u + s / (1 + s) divides s alone":
            _either(lambda T, u: _betas(torch.cos((u + 0.008 / 1.008) * math.pi / 2) ** 2),
                    lambda T, u: _betas(torch.cos(u + 0.008 / 1.008 * math.pi / 2) ** 2)),
        "the ratio is upside down: divide each level by the one before it":
            _either(lambda T, u: _betas(_f(u).flip(0)).flip(0)),
        "a 1 stands in front of f, which begins at f(0) = 0.99984: divide f by f(0), or leave the 1 out":
            _either(lambda T, u: _betas(torch.cat([u.new_ones(1), _f(u)[1:]])),
                    lambda T, u: _betas(torch.cat([u.new_ones(1), _f(u)]))),
        "these are alpha_bar; a beta is 1 minus the ratio of two neighbours":
            _either(lambda T, u: _f(u)[1:] / _f(u)[0], lambda T, u: _f(u) / _f(u)[0]),
        "these are the ratios of neighbours, the alphas; a beta is 1 minus the ratio":
            _either(lambda T, u: _f(u)[1:] / _f(u)[:-1], lambda T, u: (_f(u)[1:] / _f(u)[:-1]).clamp(max=0.999)),
        "these are standard deviations: a beta is a variance, without a root":
            _either(lambda T, u: _betas(_f(u)).sqrt()),
        "the angle goes beyond 90 degrees: it is (u + s) / (1 + s) times pi / 2":
            _either(lambda T, u: _betas(torch.cos((u + 0.008) / 1.008 * math.pi) ** 2)),
        "this is 1 - alpha_bar, the noise of a whole level; a beta is what one step adds":
            _either(lambda T, u: (1 - _f(u)[1:] / _f(u)[0]).clamp(max=0.999)),
        "these are T - 1 betas: T steps have T + 1 levels, with the clean image":
            _either(lambda T, u: _betas(_f(u[:-1])), lambda T, u: _betas(_f(u[1:]))),
        "the times end before 1, or are stretched: they go from 0 to 1 in T steps, T + 1 of them":
            _either(lambda T, u: _betas(_f(torch.linspace(0, 1, T, dtype=u.dtype)))),
        "the first beta is that of the second step: the clean image, at time 0, is missing from the levels":
            _either(lambda T, u: _betas(_f(_times(T + 2, T, u.dtype)[1:])))},
    compared="all betas of (5.3) for T = 20 and T = 1000, in float64, the last of them 0.999")
