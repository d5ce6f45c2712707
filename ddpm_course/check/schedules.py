"""Exercises of chapter 05."""
import math

import torch
from torch import Tensor

from .exercise import Exercise


def _f(u: Tensor, s: float = 0.008, power: int = 2) -> Tensor:
    return torch.cos((u + s) / (1 + s) * math.pi / 2) ** power


def _betas(f: Tensor) -> Tensor:
    return 1 - f[1:] / f[:-1]


def _times(n: int, T: int) -> Tensor:
    "0, 1/T, 2/T, ...: n numbers."
    return torch.arange(n, dtype=torch.float64) / T


cosine_betas = Exercise(
    "cosine_betas", "05", "(T), which returns the betas, (T,)",
    reference=lambda T: _betas(_f(_times(T + 1, T))).clamp(max=0.999),
    cases=lambda: [(20,), (1000,)],
    tolerance=3e-4,
    mistakes={
        "the square of the cosine is missing": lambda T: _betas(_f(_times(T + 1, T), power=1)).clamp(max=0.999),
        "the last beta is (nearly) 1: limit the betas to 0.999": lambda T: _betas(_f(_times(T + 1, T))),
        "the offset s = 0.008 is missing, so that the first betas are smaller than they should be":
            lambda T: _betas(_f(_times(T + 1, T), s=0)).clamp(max=0.999),
        "these are alpha_bar; a beta is 1 minus the ratio of two neighbours":
            lambda T: (_f(_times(T + 1, T)) / _f(_times(1, T)))[1:],
        "this is 1 - alpha_bar, the noise of a whole level; a beta is what one step adds":
            lambda T: (1 - _f(_times(T + 1, T)) / _f(_times(1, T)))[1:].clamp(max=0.999),
        "these are T - 1 betas: T steps have T + 1 levels, with the clean image":
            lambda T: _betas(_f(_times(T, T))).clamp(max=0.999),
        "the times end before 1, or are stretched: they go from 0 to 1 in T steps, T + 1 of them":
            lambda T: _betas(_f(torch.linspace(0, 1, T, dtype=torch.float64))).clamp(max=0.999),
        "the first beta is that of the second step: the clean image, at time 0, is missing from the levels":
            lambda T: _betas(_f(_times(T + 2, T)[1:])).clamp(max=0.999)},
    compared="all betas of (5.3) for T = 20 and T = 1000, the last of them 0.999")
