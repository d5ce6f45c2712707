"""Exercises of chapter 13."""
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import ndtr

from .exercise import Exercise


def _bin(half: float = 1 / 255, upper_at: str = "white", lower_at: str = "black",
         last: Callable = torch.log, cdf: Callable = ndtr) -> Callable:
    "The probability from x - half to x + half. `upper_at`, `lower_at`: the colours whose bins have an open end."
    def log_prob(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
        at = {"black": x < -0.999, "white": x > 0.999, "nowhere": torch.zeros_like(x, dtype=torch.bool)}
        upper, lower = cdf((x + half - mean) / std), cdf((x - half - mean) / std)
        return last(torch.where(at[upper_at], 1.0, upper) - torch.where(at[lower_at], 0.0, lower))
    return log_prob


def _density(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _case(std: float, off: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    "All 256 grey levels, so that an index is a grey level; each is `off` standard deviations from its mean: float64."
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    return x + std * off, torch.full_like(x, std), x


NEAR = torch.linspace(-2, 2, 256, dtype=torch.float64)
FAR = torch.tensor(7.5, dtype=torch.float64).repeat(256) * torch.tensor([1.0, -1.0]).repeat_interleave(128)
FLOORS = (1e-12, 1e-10, 1e-8, 1e-6)

discretized_log_prob = Exercise(
    "discretized_log_prob", "13", "(mean, std, x), which returns log probabilities in nats, one a pixel",
    reference=_bin(),
    cases=lambda: [_case(0.02, NEAR), _case(0.3, NEAR), _case(0.02, FAR)],
    tolerance=1e-3,
    mistakes={
        "the ends are closed: black gets all that lies below it, and white all above, or the probabilities do not add "
        "up to 1": _bin(upper_at="nowhere", lower_at="nowhere"),
        "the bin of black is closed: it reaches down to minus infinity, so 0 stands at its lower end":
            _bin(lower_at="nowhere"),
        "the bin of white is closed: it reaches up to infinity, so 1 stands at its upper end": _bin(upper_at="nowhere"),
        "black and white are swapped: white (x = 1) has the 1 at its upper end, black (x = -1) the 0 at its lower end":
            _bin(upper_at="black", lower_at="white"),
        "the two ends of the bin are swapped, and the probability is negative; expected the distribution function at "
        "the upper end minus that at the lower": _bin(last=lambda p: torch.log(-p)),
        "the bin is twice as wide as a grey level: it goes from x - 1/255 to x + 1/255": _bin(half=2 / 255),
        "the bin is half as wide as a grey level, and probability is lost between: expected x - 1/255 to x + 1/255":
            _bin(half=1 / 510),
        "the bin is a little too narrow: 256 grey levels from -1 to 1 have 255 gaps between them, so it goes from "
        "x - 1/255 to x + 1/255": _bin(half=1 / 256),
        "this is erf in the place of the distribution function, which is (1 + erf(z / sqrt(2))) / 2":
            _bin(cdf=torch.erf),
        "this is the log density, which depends on the unit of x; the probability of a bin is asked for": _density,
        "this is density times width, which is near but no probability: take the difference of two distribution "
        "functions": lambda mean, std, x: _density(mean, std, x) + math.log(2 / 255),
        "this is the probability itself; expected its logarithm": _bin(last=lambda p: p),
        "this is in bits; expected nats, the natural logarithm": _bin(last=torch.log2),
        "the distance is divided by the variance; expected the standard deviation":
            lambda mean, std, x: _bin()(mean, std**2, x),
        "the distance is divided by the root of `std`, which is a standard deviation already, not a variance":
            lambda mean, std, x: _bin()(mean, std.sqrt(), x),
        "the probability has a floor, so far from the mean the price stops growing; leave the clamp out": (
            *(_bin(last=lambda p, floor=floor: p.clamp(min=floor).log()) for floor in FLOORS),
            *(_bin(last=lambda p, floor=floor: (p + floor).log()) for floor in FLOORS))},
    compared="(13.1) for all 256 grey levels, with a narrow and a wide bell, and far from the mean")
