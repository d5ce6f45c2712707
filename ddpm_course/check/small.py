"""Small inputs for the exercises, the same each time."""
import torch
from torch import Tensor


def betas() -> Tensor:
    "A schedule of 12 steps whose levels are far apart, so that a wrong index shows: float32 (12,)."
    return torch.linspace(0.02, 0.4, 12)


def alpha_bar() -> Tensor:
    "The alpha-bar of `betas()`: float32 (12,)."
    return (1 - betas()).cumprod(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    "Standard normal numbers, float32."
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(*shape: int, seed: int = 0) -> Tensor:
    "Images in [-1, 1], float32."
    return normal(*shape, seed=seed).tanh()


def noised() -> list[tuple[Tensor, Tensor, Tensor]]:
    """
    Batches (x0, t, noise): a level for each image, the first and the last among them.

    The second batch holds as many images as an image has columns, so that a factor for each image that torch stretches
    along the width gives an answer, and a wrong one.
    """
    shapes = [(3, 1, 4, 5), (4, 2, 4, 4)]
    levels = [torch.tensor([0, 5, 11]), torch.tensor([0, 11, 3, 7])]
    return [(images(*shape, seed=1), t, normal(*shape, seed=2)) for shape, t in zip(shapes, levels)]


def whole(c: Tensor) -> Tensor:
    "One factor for each image, (B,), shaped so that it multiplies whole images."
    return c[:, None, None, None]


def network(x_t: Tensor, t: Tensor) -> Tensor:
    "What stands in for a trained network: an answer that depends on both arguments."
    return 0.4 * x_t + whole(0.05 * t.to(x_t.dtype)) - 0.1
