"""Exercises of chapter 03."""
import torch

from . import small
from .exercise import Exercise

two_points = Exercise(
    "two_points", "03", "(x_t, alpha_bar), which returns E[x0 | x_t]",
    reference=lambda x_t, ab: torch.tanh(ab**0.5 * x_t / (1 - ab)),
    cases=lambda: [(small.normal(4, 3), torch.tensor(ab)) for ab in (0.1, 0.5, 0.9)],
    mistakes={
        "sqrt(alpha_bar) is missing: the two bells of x_t stand at -sqrt(alpha_bar) and +sqrt(alpha_bar)":
            lambda x_t, ab: torch.tanh(x_t / (1 - ab)),
        "alpha_bar stands where its square root belongs": lambda x_t, ab: torch.tanh(ab * x_t / (1 - ab)),
        "a density divides by the variance of the noise, 1 - alpha_bar; here is its standard deviation":
            lambda x_t, ab: torch.tanh(ab**0.5 * x_t / (1 - ab) ** 0.5),
        "this is the probability of +1, from 0 to 1; the mean of +1 and -1 is asked for":
            lambda x_t, ab: torch.sigmoid(2 * ab**0.5 * x_t / (1 - ab)),
        "this decides for the nearer point; the mean leaves the doubt in":
            lambda x_t, ab: torch.sign(x_t),
        "a factor 2 is too much, or a half is missing: the exponents of both bells were halved already":
            lambda x_t, ab: torch.tanh(2 * ab**0.5 * x_t / (1 - ab)),
        "this would be right for normally distributed data, where the best estimate is a straight line":
            lambda x_t, ab: ab**0.5 * x_t,
        "this divides the signal's factor out and leaves all the noise in": lambda x_t, ab: x_t / ab**0.5},
    compared="the exact mean for 12 values at each of three levels")
