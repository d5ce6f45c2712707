"""Exercises of chapter 03."""
from collections.abc import Callable

import torch

from . import small
from .exercise import Exercise


def _two_bells(place: Callable, variance: Callable) -> tuple[Callable, Callable]:
    "r_+ - r_- for bells at -place and +place, written twice: stable, and as the quotient of exponentials that it is."
    def quotient(x_t, ab):
        plus, minus = ((-(x_t - sign * place(ab)) ** 2 / (2 * variance(ab))).exp() for sign in (1, -1))
        return (plus - minus) / (plus + minus)
    return lambda x_t, ab: torch.tanh(place(ab) * x_t / variance(ab)), quotient


_stable, _quotient = _two_bells(lambda ab: ab**0.5, lambda ab: 1 - ab)


def _of_exp(form: Callable) -> Callable:
    "The right answer as a `form` of e^h, which overflows where the noise is weak."
    return lambda x_t, ab: form((ab**0.5 * x_t / (1 - ab)).exp())


two_points = Exercise(
    "two_points", "03", "(x_t, alpha_bar), which returns E[x0 | x_t]",
    reference=_stable,
    cases=lambda: [(small.normal(4, 3), torch.tensor(ab)) for ab in (0.1, 0.5, 0.9, 0.999)],
    mistakes={
        "right where the noise is strong; where it is weak exp leaves the range of numbers: 0/0 or inf/inf is NaN":
            (_quotient, _of_exp(lambda e: (e - 1 / e) / (e + 1 / e)), _of_exp(lambda e: (e**2 - 1) / (e**2 + 1)),
             _of_exp(lambda e: (1 - e**-2) / (1 + e**-2))),
        "the exponents lack a division by the variance of the noise, 1 - alpha_bar":
            _two_bells(lambda ab: ab**0.5, lambda ab: 1.0),
        "1 - alpha_bar is the variance already; here it is squared once more":
            _two_bells(lambda ab: ab**0.5, lambda ab: (1 - ab) ** 2),
        "sqrt(alpha_bar) is missing: the two bells of x_t stand at -sqrt(alpha_bar) and +sqrt(alpha_bar)":
            _two_bells(lambda ab: 1.0, lambda ab: 1 - ab),
        "alpha_bar stands where its square root belongs": _two_bells(lambda ab: ab, lambda ab: 1 - ab),
        "a density divides by the variance of the noise, 1 - alpha_bar; here is its standard deviation":
            _two_bells(lambda ab: ab**0.5, lambda ab: (1 - ab) ** 0.5),
        "this is the probability of +1, from 0 to 1; the mean of +1 and -1 is asked for":
            lambda x_t, ab: torch.sigmoid(2 * ab**0.5 * x_t / (1 - ab)),
        "this decides for the nearer point; the mean leaves the doubt in":
            lambda x_t, ab: torch.sign(x_t),
        "a factor 2 is too much, or a half is missing: the exponents of both bells were halved already":
            _two_bells(lambda ab: ab**0.5, lambda ab: (1 - ab) / 2),
        "a factor 2 is missing: one exponent is +h and the other -h, so r_+ is the sigmoid of 2h":
            lambda x_t, ab: torch.tanh(ab**0.5 * x_t / (1 - ab) / 2),
        "this would be right for normally distributed data, where the best estimate is a straight line":
            lambda x_t, ab: ab**0.5 * x_t,
        "this divides the signal's factor out and leaves all the noise in": lambda x_t, ab: x_t / ab**0.5},
    compared="the exact mean for 12 values at each of four levels")
