"""Exercises of chapter 11."""
from . import small
from .exercise import Exercise

guided = Exercise(
    "guided", "11", "(conditional, unconditional, scale), which returns the guided eps",
    reference=lambda c, u, scale: u + scale * (c - u),
    cases=lambda: [(small.normal(2, 1, 3, 3), small.normal(2, 1, 3, 3, seed=1), scale) for scale in (0.0, 1.0, 2.5)],
    mistakes={
        "this is the paper's strength w, where 0 follows the label as learned; a scale of 1 does, so w = scale - 1":
            lambda c, u, scale: (1 + scale) * c - scale * u,
        "the two answers are exchanged: a large scale must lead away from the unconditional one":
            lambda c, u, scale: c + scale * (u - c),
        "the step leads from the unconditional answer away from the label: its sign is wrong":
            lambda c, u, scale: u - scale * (c - u),
        "above 1 it walks back to the unconditional answer, and beyond: the sign of the correction is wrong":
            lambda c, u, scale: c + (scale - 1) * (u - c),
        "the conditional answer alone is scaled, and the noise with it; scale the difference":
            lambda c, u, scale: scale * c,
        "the conditional answer is added whole; what is added is the scaled difference of the two":
            lambda c, u, scale: u + scale * c,
        "above 1 it stops at the conditional answer; it must go on in the same direction":
            lambda c, u, scale: u + min(scale, 1) * (c - u),
        "the difference alone is returned; it is added to the unconditional answer":
            lambda c, u, scale: scale * (c - u),
        "the answer does not depend on the scale": lambda c, u, scale: c},
    compared="(11.4) at scale 0 (labels ignored), 1 (as learned) and 2.5")
