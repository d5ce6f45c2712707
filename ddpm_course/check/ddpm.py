"""Exercises of chapter 08."""
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from . import small
from .exercise import Exercise
from .forward import _previous

MEAN, STD = 0.1, 0.15  # of every pixel, so that no estimate of an image leaves [-1, 1] and clipping changes nothing


def _world(x: Tensor, t: Tensor) -> Tensor:
    "The ideal noise estimate where every pixel is normally distributed."
    if not isinstance(t, Tensor) or t.dtype != torch.int64 or t.shape != x.shape[:1]:
        was = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise ValueError(f"t is {was}, expected int64 of shape ({len(x)},), the level of each image")
    a = small.whole(small.alpha_bar()[t])
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)


def _mean(x: Tensor, eps: Tensor, beta: Tensor, now: Tensor, before: Tensor) -> Tensor:
    return (x - beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()


def _large(beta: Tensor, now: Tensor, before: Tensor) -> Tensor:
    return beta.sqrt()


def _small(beta: Tensor, now: Tensor, before: Tensor) -> Tensor:
    return (beta * (1 - before) / (1 - now)).sqrt()


def _by_posterior(x: Tensor, eps: Tensor, beta: Tensor, now: Tensor, before: Tensor) -> Tensor:
    "The same mean by an estimate of x0: another one where `before` is wrong."
    x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
    return (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x) / (1 - now)


def _walk(std: Callable, mean: Callable = _mean, noisy: Callable[[int], bool] = lambda i: i > 0, told: int = 0,
          levels: Callable[[int], Sequence[int]] = lambda T: range(T)[::-1], before: Callable = _previous,
          once: bool = False, start: Callable = lambda x, generator: x) -> Callable:
    """
    Algorithm 2 by its parts. `noisy`: the code indices at which noise is added; `told`: added to the level that the
    model is told; `before`: alpha-bar one level down; `once`: noise is drawn a single time, ahead of the walk.
    """
    def sample(model: Callable, x: Tensor, betas: Tensor, generator: Generator | None) -> Tensor:
        alpha_bar, x = (1 - betas).cumprod(0), start(x, generator)
        draw = lambda: torch.randn(x.shape, generator=generator)
        noise = draw() if once else None
        for i in levels(len(betas)):
            t = torch.full((len(x),), i)
            level = betas[i], alpha_bar[i], before(alpha_bar, t)[0]
            x = mean(x, model(x, (t + told).clamp(0, len(betas) - 1)), *level)
            if noisy(i):
                x = x + std(*level) * (noise if once else draw())
        return x
    return sample


def _wrong(**parts) -> tuple[Callable, Callable]:
    "A wrong walk, with either of the two right variances."
    return _walk(_small, **parts), _walk(_large, **parts)


def _always(i: int) -> bool:
    return True


def _wrapped(alpha_bar: Tensor, t: Tensor) -> Tensor:
    "Python's index -1 is the last entry."
    return alpha_bar[t - 1]


def _moments(std: Callable) -> tuple[float, float]:
    "Mean and standard deviation of what Algorithm 2 draws here, exactly: every move is a straight line plus noise."
    betas, alpha_bar = small.betas().double(), small.alpha_bar().double()
    mean, variance = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for i in range(len(betas))[::-1]:
        t = torch.tensor([i])
        level = betas[i], alpha_bar[i], _previous(alpha_bar, t)[0]
        move = lambda x: _mean(x, _world(x.view(1, 1, 1, 1), t).flatten(), *level)
        slope = move(torch.ones(1, dtype=torch.float64)) - move(torch.zeros(1, dtype=torch.float64))
        mean, variance = move(mean), slope**2 * variance + (std(*level)**2 if i else 0)
    return mean.item(), variance.sqrt().item()


def _by_its_distribution(mine: Callable) -> str | None:
    "Whether 20,000 pixels have the right mean and standard deviation, each within four standard errors."
    x = small.normal(500, 1, 5, 8)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        drawn = mine(_world, x.clone(), small.betas(), torch.Generator().manual_seed(0))
    if not isinstance(drawn, Tensor) or drawn.shape != x.shape:
        return None
    for mean, std in map(_moments, (_small, _large)):
        error = std / drawn.numel() ** 0.5  # of the mean; that of the standard deviation is smaller by sqrt(2)
        if abs(drawn.mean() - mean) < 4 * error and abs(drawn.std() - std) < 4 * error / 2**0.5:
            return ("mean and standard deviation of 20,000 pixels, in a world where the ideal noise is known. Your "
                    "noise is not drawn as torch.randn(x.shape, generator=generator) once a step, so that single "
                    "images cannot be compared")
    return None


ddpm_sample = Exercise(
    "ddpm_sample", "08", "(model, x, betas, generator), which returns x0",
    reference=_walk(_small),
    also={"with the variance beta of each step": _walk(_large)},
    cases=lambda: [(_world, small.normal(3, 1, 4, 4), small.betas(), torch.Generator().manual_seed(1))],
    otherwise=_by_its_distribution,
    mistakes={
        "noise is added at the last step too, and stays in the image":
            (_walk(_large, noisy=_always), _walk(lambda *level: (_large if level[2] == 1 else _small)(*level),
                                                 noisy=_always)),
        "alpha_bar[t - 1] is alpha_bar[-1] at t = 0, the noisiest level; the clean image has alpha_bar = 1":
            (_walk(_small, noisy=_always, before=_wrapped),
             *(_walk(_small, _by_posterior, noisy, before=_wrapped) for noisy in (_always, lambda i: i > 0)),
             _walk(_large, _by_posterior, before=_wrapped)),
        "no noise is added at code index 1; only the last step, index 0, goes without":
            _wrong(noisy=lambda i: i > 1),
        "one draw of noise is added at every step; each step needs a fresh one": _wrong(once=True),
        "the noise is multiplied by a variance; expected its standard deviation, a square root":
            (_walk(lambda *level: _small(*level)**2), _walk(lambda *level: _large(*level)**2)),
        "no noise is added, so that the images come out with too little contrast": _walk(lambda *level: 0.0),
        "the mean is divided by sqrt(alpha_bar); one step back divides by sqrt(alpha) of that step":
            _wrong(mean=lambda x, eps, beta, now, before: (x - beta / (1 - now).sqrt() * eps) / now.sqrt()),
        "the division by sqrt(alpha) is missing": _wrong(mean=lambda x, eps, beta, now, before:
                                                         x - beta / (1 - now).sqrt() * eps),
        "the mean is multiplied by sqrt(alpha), which is a step forward; one step back divides by it":
            _wrong(mean=lambda x, eps, beta, now, before: (x - beta / (1 - now).sqrt() * eps) * (1 - beta).sqrt()),
        "the noise estimate is multiplied by beta / sqrt(alpha_bar); the root of 1 - alpha_bar belongs there":
            _wrong(mean=lambda x, eps, beta, now, before: (x - beta / now.sqrt() * eps) / (1 - beta).sqrt()),
        "the root in beta / sqrt(1 - alpha_bar) is missing":
            _wrong(mean=lambda x, eps, beta, now, before: (x - beta / (1 - now) * eps) / (1 - beta).sqrt()),
        "all the estimated noise is taken out at once, which leads to x0 and not one step back":
            _wrong(mean=lambda x, eps, beta, now, before: (x - (1 - now).sqrt() * eps) / now.sqrt()),
        "the estimated noise is added; it is taken out":
            _wrong(mean=lambda x, eps, beta, now, before: (x + beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()),
        "the last step is missing: level 0 is a level with noise":
            tuple(_walk(std, noisy=noisy, levels=lambda T: range(1, T)[::-1])
                  for std in (_small, _large) for noisy in (lambda i: i > 0, lambda i: i > 1)),
        "the first step is missing: the walk starts at level T - 1": _wrong(levels=lambda T: range(T - 1)[::-1]),
        "the walk goes up from level 0; it starts at T - 1, where all is noise": _wrong(levels=range),
        "the model is told one level too many: code index 0 is the first level": _wrong(told=1),
        "the walk starts from noise of its own, and the x it was given is not used":
            _wrong(start=lambda x, generator: torch.randn(x.shape, generator=generator))},
    compared="12 steps of Algorithm 2 from the same noise, in a world where the ideal noise is known")
