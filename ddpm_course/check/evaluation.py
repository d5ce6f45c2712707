"""Exercises of chapter 12."""
from collections.abc import Callable

import torch
from torch import Tensor

from . import small
from .exercise import Exercise


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


def _common(a: Tensor, b: Tensor) -> Tensor:
    "The trace of the root of the product of two covariances, by the eigenvalues of the product."
    return torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()


def _root(a: Tensor) -> Tensor:
    "The root of one covariance."
    variances, axes = torch.linalg.eigh(a)
    return axes * variances.clamp(min=0).sqrt() @ axes.T


def _frechet(means: Callable = lambda a, b: (a - b).square().sum(), moments: Callable = _moments,
             common: Callable = _common, traces: Callable = lambda a, b: a.trace() + b.trace(), twice: float = 2,
             last: Callable = lambda distance: distance) -> Callable:
    "The distance by its parts."
    def distance(features_a: Tensor, features_b: Tensor) -> Tensor:
        (mean_a, cov_a), (mean_b, cov_b) = moments(features_a.double()), moments(features_b.double())
        return last(means(mean_a, mean_b) + traces(cov_a, cov_b) - twice * common(cov_a, cov_b))
    return distance


def _case(seed: int, n: int, m: int) -> tuple[Tensor, Tensor]:
    "Two sets whose means are far from 0, and whose covariances have other axes and differ in size."
    a, b = (small.normal(k, 4, seed=seed + i).double() @ small.normal(4, 4, seed=seed + 5 + i).double() + shift
            for i, (k, shift) in enumerate([(n, 1.0), (m, torch.tensor([2.0, 0.5, 1.0, 3.0]))]))
    return a, 1.5 * b


frechet_distance = Exercise(
    "frechet_distance", "12", "(features_a, features_b), which returns one number",
    reference=_frechet(),
    cases=lambda: [_case(0, 60, 60), _case(20, 40, 80)],
    also={"with covariances divided by n in place of n - 1": _frechet(moments=lambda x: (x.mean(0),
                                                                                      x.T.cov(correction=0)))},
    mistakes={
        "the means are forgotten: two sets that differ only in their mean would have distance 0":
            _frechet(means=lambda a, b: 0.0),
        "the distance of the means is not squared": _frechet(means=lambda a, b: (a - b).norm()),
        "the squared distance of the means is a sum over all features, not a mean":
            _frechet(means=lambda a, b: (a - b).square().mean()),
        "the trace is of the product itself; a root is missing: (Sigma_a Sigma_b) to the power 1/2":
            _frechet(common=lambda a, b: (a @ b).trace()),
        "the root is taken of each entry of the product; the root of a matrix is meant, whose trace is the sum of the "
        "roots of the eigenvalues": _frechet(common=lambda a, b: (a @ b).clamp(min=0).sqrt().trace()),
        "the root is taken of the trace of the product; the trace of its root is meant, the sum of the roots of the "
        "eigenvalues": _frechet(common=lambda a, b: (a @ b).trace().sqrt()),
        "the roots are taken of both covariances and multiplied; the root of their product is another matrix where "
        "their axes differ": (_frechet(common=lambda a, b: (_root(a) @ _root(b)).trace()),
                        _frechet(common=lambda a, b: (torch.linalg.eigvalsh(a) * torch.linalg.eigvalsh(b)).clamp(
                            min=0).sqrt().sum())),
        "eigvalsh is for symmetric matrices, and the product of two covariances is none: it reads one triangle alone; "
        "take eigvals": (_frechet(common=lambda a, b: torch.linalg.eigvalsh(a @ b).clamp(min=0).sqrt().sum()),
                         _frechet(common=lambda a, b: torch.linalg.eigvalsh(a @ b).abs().sqrt().sum()),
                         _frechet(common=lambda a, b: torch.linalg.eigvalsh(a @ b).sqrt().sum())),
        "only the diagonals of the covariances are used: the directions in which the features vary together are lost":
            _frechet(common=lambda a, b: (a.diag() * b.diag()).sqrt().sum()),
        "the covariance is not centred: x.T @ x / n still holds the mean":
            (_frechet(moments=lambda x: (x.mean(0), x.T @ x / len(x))),
             _frechet(moments=lambda x: (x.mean(0), x.T @ x / (len(x) - 1)))),
        "the last term counts twice: it is minus 2 times the trace of the root": _frechet(twice=1),
        "the last term is added, and belongs subtracted: what two sets have in common brings them nearer":
            _frechet(twice=-2),
        "this is the square root of the distance; in this chapter, as for FID, the squared one is meant":
            _frechet(last=lambda distance: distance.clamp(min=0).sqrt()),
        "the spread is compared by standard deviations where variances belong: the first traces are of the covariances":
            _frechet(traces=lambda a, b: a.diag().sqrt().sum() + b.diag().sqrt().sum()),
        "the covariance is taken between images, not between features: torch.cov wants one row for each variable":
            _frechet(moments=lambda x: (x.mean(0), x.cov()))},
    compared="(12.4) on two pairs of sets, of equal and of different sizes")
