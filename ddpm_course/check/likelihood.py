"""Exercises of chapter 13."""
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import ndtr

from .exercise import Exercise


def _bin(half: float = 1 / 255, open_ends: bool = True, last: Callable = torch.log) -> Callable:
    "The probability between x - half and x + half."
    def log_prob(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
        upper, lower = ndtr((x + half - mean) / std), ndtr((x - half - mean) / std)
        if open_ends:
            upper, lower = torch.where(x > 0.999, 1.0, upper), torch.where(x < -0.999, 0.0, lower)
        return last(upper - lower)
    return log_prob


def _density(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _case(std: float) -> tuple[Tensor, Tensor, Tensor]:
    "Pixels from black to white, each at most two standard deviations from its mean: float64."
    x = torch.tensor([0, 1, 60, 127, 128, 200, 254, 255], dtype=torch.float64).view(1, 1, 2, 4) / 127.5 - 1
    return x + std * torch.linspace(-2, 2, 8, dtype=torch.float64).view_as(x), torch.full_like(x, std), x


discretized_log_prob = Exercise(
    "discretized_log_prob", "13", "(mean, std, x), which returns log probabilities in nats, one a pixel",
    reference=_bin(),
    cases=lambda: [_case(std) for std in (0.02, 0.3)],
    tolerance=1e-3,
    mistakes={
        "the ends are closed: black gets all that lies below it, and white all above, or the probabilities do not add "
        "up to 1": _bin(open_ends=False),
        "the bin is twice as wide as a grey level: it goes from x - 1/255 to x + 1/255": _bin(half=2 / 255),
        "the bin is half as wide as a grey level, and probability is lost between: expected x - 1/255 to x + 1/255":
            _bin(half=1 / 510),
        "this is the log density, which depends on the unit of x; the probability of a bin is asked for": _density,
        "this is density times width, which is near but no probability: take the difference of two distribution "
        "functions": lambda mean, std, x: _density(mean, std, x) + math.log(2 / 255),
        "this is the probability itself; expected its logarithm": _bin(last=lambda p: p),
        "this is in bits; expected nats, the natural logarithm": _bin(last=torch.log2),
        "the distance is divided by the variance; expected the standard deviation":
            lambda mean, std, x: _bin()(mean, std**2, x)},
    compared="(13.1) for eight grey levels, black and white among them, with a narrow and a wide bell")
