"""Exercises of chapter 01."""
from collections.abc import Callable

import torch
from torch import Tensor

from .exercise import Exercise


def _with_dtype(mine: Callable, images: Tensor) -> dict:
    "Here the dtype belongs to what is asked for."
    result = mine(images)
    return {"dtype": getattr(result, "dtype", None), "values": result}


def _stretched(images):
    low, high = images.float().min(), images.float().max()
    return 2 * (images.float() - low) / (high - low) - 1


to_model_range = Exercise(
    "to_model_range", "01", "(images), from uint8 to float32 in [-1, 1]",
    reference=lambda images: images.float() / 127.5 - 1,
    cases=lambda: [(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16),),
                   (torch.tensor([[[[9, 200], [127, 128]]]], dtype=torch.uint8),)],  # without black and white
    probe=_with_dtype,
    mistakes={
        "the result lies in [0, 1]: black should be -1, not 0": lambda images: images.float() / 255,
        "the result lies in [0, 2]: it is scaled, but not centred": lambda images: images.float() / 127.5,
        "the result still lies in [-127.5, 127.5]: it is centred, but not scaled":
            lambda images: images.float() - 127.5,
        "the result lies in [-0.5, 0.5]: the way from the middle to white is 127.5 grey levels, not 255":
            lambda images: (images.float() - 127.5) / 255,
        "a // cuts off the decimals, so that only -1, 0 and 1 are left; use /":
            (lambda images: images.float() // 127.5 - 1, lambda images: (images // 127.5 - 1).float()),
        "white misses 1 by 1/128: the two ends are 255 grey levels apart, not 256":
            lambda images: images.float() / 128 - 1,
        "a multiplication in uint8 wraps around at 256, so that light greys become dark: make the images float first":
            lambda images: 2 * images / 255 - 1,
        "a subtraction in uint8 wraps around at 0, so that dark greys become light: make the images float first":
            (lambda images: (images - 128) / 128, lambda images: (images - 128) / 127,
             lambda images: (images - 128) / 127.5, lambda images: (images - 127) / 128,
             lambda images: (images - 127) / 127, lambda images: (images - 127) / 127.5),
        "the result is scaled by the smallest or largest value of these images; a grey level must become the same "
        "number in each image": (lambda images: 2 * (images / images.max()) - 1, _stretched),
        "it is scaled twice, so that everything is close to -1":
            lambda images: (images.float() / 127.5 - 1) / 127.5 - 1,
        "the numbers are right but float64, twice the memory and not what networks take: expected float32":
            lambda images: images.double() / 127.5 - 1,
        "the result is scaled by the mean and standard deviation of this batch; the range must not depend on which "
        "images happen to be together": lambda images: (images.float() - images.float().mean()) / images.float().std()},
    compared="all 256 grey levels, in float32, 0 at -1 and 255 at 1")
