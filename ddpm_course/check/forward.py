"""Exercises of chapter 02."""
from collections.abc import Callable

import torch
from torch import Tensor

from . import small
from .exercise import Exercise
from .small import whole


def _q_sample(x0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    a = whole(alpha_bar[t])
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def _previous(alpha_bar: Tensor, t: Tensor) -> Tensor:
    return torch.cat([alpha_bar.new_ones(1), alpha_bar])[t]


q_sample = Exercise(
    "q_sample", "02", "(x0, t, noise, alpha_bar), which returns x_t",
    reference=_q_sample,
    cases=lambda: [(x0, t, noise, small.alpha_bar()) for x0, t, noise in small.noised()],
    mistakes={
        "the factors are variances; a random number is multiplied by its standard deviation, so take square roots":
            lambda x0, t, noise, ab: whole(ab[t]) * x0 + whole(1 - ab[t]) * noise,
        "the noise is multiplied by its variance 1 - alpha_bar; expected the standard deviation":
            lambda x0, t, noise, ab: whole(ab[t]).sqrt() * x0 + whole(1 - ab[t]) * noise,
        "the image is multiplied by alpha_bar, which is a factor on its power: a square root is missing":
            lambda x0, t, noise, ab: whole(ab[t]) * x0 + whole(1 - ab[t]).sqrt() * noise,
        "the two factors are exchanged: at the first level nearly all should be image":
            lambda x0, t, noise, ab: (1 - whole(ab[t])).sqrt() * x0 + whole(ab[t]).sqrt() * noise,
        "the levels are one too low: code index 0 is the first level with noise, not the clean image":
            lambda x0, t, noise, ab: _q_sample(x0, t, noise, torch.cat([ab.new_ones(1), ab[:-1]])),
        "the levels are one too low, and index 0 wraps around to the last: t is an index already, without -1":
            lambda x0, t, noise, ab: _q_sample(x0, t - 1, noise, ab),
        "the factors (B,) meet images (B, C, H, W): torch lines them up with the width, not with the batch":
            lambda x0, t, noise, ab: ab[t].sqrt() * x0 + (1 - ab[t]).sqrt() * noise,
        "every image is noised to the level of the first one: t holds a level for each":
            lambda x0, t, noise, ab: ab[t[0]].sqrt() * x0 + (1 - ab[t[0]]).sqrt() * noise,
        "this is one step of the chain, with alpha of that step; a jump from x0 needs alpha_bar, their product":
            lambda x0, t, noise, ab: _q_sample(x0, t, noise, torch.cat([ab[:1], ab[1:] / ab[:-1]])),
        "alpha_bar is the product already: do not multiply it up once more":
            lambda x0, t, noise, ab: _q_sample(x0, t, noise, ab.cumprod(0)),
        "it draws noise of its own; use the noise that it is given, which the network will be asked for":
            lambda x0, t, noise, ab: _q_sample(x0, t, torch.randn_like(noise), ab),
        "the noise is subtracted; its sign must be a plus, or a network trained on it learns -eps":
            lambda x0, t, noise, ab: whole(ab[t]).sqrt() * x0 - whole(1 - ab[t]).sqrt() * noise},
    compared="equation (2.7) on two batches, a level for each image, the first and the last level among them")


def _posterior(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    return _posterior_at(x0, x_t, *map(whole, _levels(betas, t)))


def _levels(betas: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    "beta and alpha_bar of level `t`, and alpha_bar of the level before it: each (B,)."
    alpha_bar = (1 - betas).cumprod(0)
    return betas[t], alpha_bar[t], _previous(alpha_bar, t)


def _posterior_at(x0: Tensor, x_t: Tensor, beta: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
    return mean, (beta * (1 - before) / (1 - now)).expand_as(mean)


def _posterior_with(change: Callable) -> Callable:
    "The posterior with its beta, alpha_bar and previous alpha_bar changed."
    def wrong(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = (1 - betas).cumprod(0)
        return _posterior_at(x0, x_t, *map(whole, change(betas, alpha_bar, t)))
    return wrong


q_posterior = Exercise(
    "q_posterior", "02", "(x0, x_t, t, betas), which returns (mean, variance)",
    reference=_posterior,
    cases=lambda: [(x0, x_t, t, small.betas()) for x0, t, x_t in small.noised()],
    returns=("mean", "variance"),
    stretch=True,
    mistakes={
        "the second part is the standard deviation; expected the variance":
            lambda *given: (_posterior(*given)[0], _posterior(*given)[1].sqrt()),
        "the second part is log(variance); expected the variance itself":
            lambda *given: (_posterior(*given)[0], _posterior(*given)[1].log()),
        "the variance is beta; that is the step forward. Knowing x0 as well makes it smaller: beta-tilde":
            lambda x0, x_t, t, betas: (_posterior(x0, x_t, t, betas)[0], whole(betas[t]).expand_as(x0)),
        "the level before t is one too low at t = 0: index -1 wraps around to the last level. Before the first level "
        "stands the clean image, with alpha_bar 1":
            _posterior_with(lambda betas, ab, t: (betas[t], ab[t], ab[t - 1])),
        "the level before level 0 is level 0 itself here; it should be the clean image, with alpha_bar 1":
            _posterior_with(lambda betas, ab, t: (betas[t], ab[t], ab[(t - 1).clamp(min=0)])),
        "both levels are t: where alpha_bar of t - 1 belongs stands alpha_bar of t":
            _posterior_with(lambda betas, ab, t: (betas[t], ab[t], ab[t])),
        "alpha of one step stands where alpha_bar, their product, belongs":
            _posterior_with(lambda betas, ab, t: (betas[t], 1 - betas[t], _previous(1 - betas, t))),
        "variance and mean are exchanged; expected the mean first":
            lambda *given: _posterior(*given)[::-1],
        "the weight of x_t in the mean has the factor sqrt(alpha) of this step, and the root belongs to it":
            tuple(lambda x0, x_t, t, betas, p=p: (_posterior(x0, x_t * whole((1 - betas[t]) ** p), t, betas)[0],
                                                  _posterior(x0, x_t, t, betas)[1]) for p in (-0.5, 0.5)),
        "the weight of x0 in the mean lacks its factor, the root of the previous alpha_bar":
            lambda x0, x_t, t, betas: (_posterior(x0 / whole(_levels(betas, t)[2].sqrt()), x_t, t, betas)[0],
                                       _posterior(x0, x_t, t, betas)[1]),
        "the weights of x0 and x_t in the mean are exchanged":
            lambda x0, x_t, t, betas: (_posterior(x_t, x0, t, betas)[0], _posterior(x0, x_t, t, betas)[1]),
        "the factors (B,) meet images (B, C, H, W): torch lines them up with the width, not with the batch":
            lambda x0, x_t, t, betas: _posterior_at(x0, x_t, *_levels(betas, t))},
    compared="mean and variance of (2.9) and (2.10) on two batches; the variance is 0 at t = 0")
