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


def _with_fresh_noise(x_t: Tensor, eps: Tensor, now: Tensor, prev: Tensor) -> Tensor:
    return prev.sqrt() * _x0(x_t, eps, now) + (1 - prev).sqrt() * torch.randn_like(eps)


def _posterior_mean(x_t: Tensor, eps: Tensor, now: Tensor, prev: Tensor) -> Tensor:
    c0, ct = prev.sqrt() * (1 - now / prev), (now / prev).sqrt() * (1 - prev)
    return (c0 * _x0(x_t, eps, now) + ct * x_t) / (1 - now)


def _without_roots(x_t: Tensor, eps: Tensor, now: Tensor, prev: Tensor) -> Tensor:
    return prev * (x_t - (1 - now) * eps) / now + (1 - prev) * eps


ddim_move = Exercise(
    "ddim_move", "09", "(x_t, eps, alpha_bar_t, alpha_bar_prev), which returns x_prev",
    reference=_move(lambda now, prev: prev.sqrt(), lambda now, prev: (1 - prev).sqrt()),
    cases=lambda: [(small.normal(2, 1, 4, 4, seed=i), small.normal(2, 1, 4, 4, seed=9), torch.tensor(now),
                    torch.tensor(prev)) for i, (now, prev) in enumerate([(0.05, 0.2), (0.3, 0.8), (0.8, 1.0)])],
    mistakes={
        "this is the estimate of x0; it still has to be noised to the level alpha_bar_prev":
            _move(lambda now, prev: 1, lambda now, prev: 0),
        "the factors are roots: sqrt(alpha_bar) on x0 and sqrt(1 - alpha_bar) on eps, at both levels":
            _without_roots,
        "the two roots on x0 are missing: it comes with the factor sqrt(alpha_bar), at both levels":
            lambda x_t, eps, now, prev: prev * (x_t - (1 - now).sqrt() * eps) / now + (1 - prev).sqrt() * eps,
        "the two roots on eps are missing: it comes with the factor sqrt(1 - alpha_bar), at both levels":
            lambda x_t, eps, now, prev: prev.sqrt() * (x_t - (1 - now) * eps) / now.sqrt() + (1 - prev) * eps,
        "in the estimate of x0 both roots are missing; (2.7) has sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t)":
            lambda x_t, eps, now, prev: prev.sqrt() * (x_t - (1 - now) * eps) / now + (1 - prev).sqrt() * eps,
        "at the end both roots are missing; (2.7) has sqrt(alpha_bar_prev) and sqrt(1 - alpha_bar_prev)":
            _move(lambda now, prev: prev, lambda now, prev: 1 - prev),
        "in the estimate of x0 it is divided by alpha_bar_t; a square root is missing":
            lambda x_t, eps, now, prev: prev.sqrt() * (x_t - (1 - now).sqrt() * eps) / now + (1 - prev).sqrt() * eps,
        "the noise put back is fresh; expected eps, the noise that is in x_t already":
            (_with_fresh_noise,
             lambda x_t, eps, now, prev: _with_fresh_noise(x_t, eps, now, prev) + (1 - prev).sqrt() * eps),
        "the noise is put back at the level where the move started; expected sqrt(1 - alpha_bar_prev)":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: (1 - now).sqrt()),
        "the noise comes with its variance 1 - alpha_bar_prev; a square root is missing":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: 1 - prev),
        "x0 is multiplied by alpha_bar_prev; a square root is missing":
            _move(lambda now, prev: prev, lambda now, prev: (1 - prev).sqrt()),
        "no noise is put back; expected eps, with the factor sqrt(1 - alpha_bar_prev)":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: 0),
        "the noise put back has a minus sign; expected + sqrt(1 - alpha_bar_prev) * eps":
            _move(lambda now, prev: prev.sqrt(), lambda now, prev: -(1 - prev).sqrt()),
        "in the estimate of x0 the noise is added; expected x_t - sqrt(1 - alpha_bar_t) * eps":
            lambda x_t, eps, now, prev: prev.sqrt() * _x0(x_t, -eps, now) + (1 - prev).sqrt() * eps,
        "this is DDPM's mean, which throws noise away; expected all of it, sqrt(1 - alpha_bar_prev) * eps":
            _posterior_mean,
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
