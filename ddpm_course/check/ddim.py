"""Exercises of chapter 09."""
from collections.abc import Callable

import torch
from torch import Tensor

from . import small
from .exercise import Exercise


def _x0(x_t: Tensor, eps: Tensor, now: Tensor) -> Tensor:
    return (x_t - (1 - now).sqrt() * eps) / now.sqrt()


def _move(signal: Callable, sigma: Callable) -> Callable:
    "A move whose two factors at the end are functions of both alpha-bars."
    return lambda x_t, eps, now, prev: signal(now, prev) * _x0(x_t, eps, now) + sigma(now, prev) * eps


ddim_move = Exercise(
    "ddim_move", "09", "(x_t, eps, alpha_bar_t, alpha_bar_prev), which returns x_prev",
    reference=_move(lambda now, prev: prev.sqrt(), lambda now, prev: (1 - prev).sqrt()),
    cases=lambda: [(small.normal(2, 1, 4, 4, seed=i), small.normal(2, 1, 4, 4, seed=9), torch.tensor(now),
                    torch.tensor(prev)) for i, (now, prev) in enumerate([(0.05, 0.2), (0.3, 0.8), (0.8, 1.0)])],
    mistakes={
        "this is the estimate of x0; it still has to be noised to the level alpha_bar_prev":
            _move(lambda now, prev: 1, lambda now, prev: 0),
        "the noise is put back at the level where the move started; expected sqrt(1 - alpha_bar_prev)":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: (1 - now).sqrt()),
        "the noise comes with its variance 1 - alpha_bar_prev; a square root is missing":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: 1 - prev),
        "x0 is multiplied by alpha_bar_prev; a square root is missing":
            _move(lambda now, prev: prev, lambda now, prev: (1 - prev).sqrt()),
        "x0 is not scaled to the new level: sqrt(alpha_bar_prev) is missing":
            _move(lambda now, prev: 1, lambda now, prev: (1 - prev).sqrt()),
        "the two levels are exchanged: the move starts at alpha_bar_t":
            lambda x_t, eps, now, prev: now.sqrt() * _x0(x_t, eps, prev) + (1 - now).sqrt() * eps,
        "in the estimate of x0 the division by sqrt(alpha_bar_t) is missing":
            lambda x_t, eps, now, prev: prev.sqrt() * (x_t - (1 - now).sqrt() * eps) + (1 - prev).sqrt() * eps,
        "in the estimate of x0 the noise is taken out with its variance; expected sqrt(1 - alpha_bar_t)":
            lambda x_t, eps, now, prev: (prev / now).sqrt() * (x_t - (1 - now) * eps) + (1 - prev).sqrt() * eps,
        "x0 is clipped, but eps stays what it was before, and the two no longer make up x_t; clipping is not asked for":
            lambda x_t, eps, now, prev: prev.sqrt() * _x0(x_t, eps, now).clamp(-1, 1) + (1 - prev).sqrt() * eps},
    compared="(9.1) without fresh noise for three moves, the last of them to the clean image")
