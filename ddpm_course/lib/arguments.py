"""
What many functions do with their arguments: refuse those that do not fit, and make labels and noise of the others.

A refusal names the value and what was expected; what is accepted comes back. torch is loaded only where a tensor is
needed, so that a configuration can be checked without it.
"""
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real


def check_number(name: str, value, low=None, high=None, *, whole: bool = False, above: bool = False,
                 below: bool = False, or_none: bool = False) -> int | float | None:
    """
    A number from `low` to `high`, as a plain int or float: `steps is 0, expected a whole number of 1 or more`.

    `low`, `high`: the ends, which belong to the range; None for no end. `above`: `low` itself is refused; `below`:
    `high` itself is. `whole`: only whole numbers. `or_none`: None too. Numbers of NumPy and tensors of one number count
    as numbers, True and False do not, and NaN lies in no range. `ValueError` for anything else.
    """
    if or_none and value is None:
        return None
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(number, Integral if whole else Real) and not isinstance(number, bool):
        high_enough = low is None or (number > low if above else number >= low)
        low_enough = high is None or (number < high if below else number <= high)
        if high_enough and low_enough and not math.isnan(number):
            return int(number) if isinstance(number, Integral) else float(number)
    expected = ("None or " if or_none else "") + _range(number, low, high, whole, above, below)
    raise ValueError(f"{name} is {_shown(number)}, expected {expected}")


def _shown(value) -> str:
    "A value as it is named in a message: on one line, and not longer than one."
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _range(number, low, high, whole: bool, above: bool, below: bool) -> str:
    "What `check_number` expected, in words."
    kind = "a whole number" if whole else "a number"
    if low is None and high is None:
        return kind
    if high is None:
        words = f"more than {low:,}" if above else f"{low:,} or more"
    elif low is None:
        words = f"less than {high:,}" if below else f"at most {high:,}"
    else:
        words = f"{'more than ' if above else ''}{low:,} {'up to but not including' if below else 'to'} {high:,}"
    if whole:
        return f"{kind} {'of' if low is None or high is None else 'from'} {words}"
    return words if isinstance(number, Real) and not isinstance(number, bool) else f"{kind}, {words}"


def check_numbers(name: str, values, low=None, high=None, **kind) -> tuple:
    "Several numbers, as `check_number` wants each, as a tuple. `heads is 2, expected a tuple of numbers`."
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {_shown(values)}, expected a tuple of numbers")
    try:
        return tuple(check_number(name, value, low, high, **kind) for value in values)
    except ValueError as error:
        raise ValueError(f"{name} is {_shown(values)}; {error}") from None


def check_multiple(name: str, value: int, of: int, of_is: str) -> None:
    "A multiple of `of`, which is `of_is` in words: `image_size is 30, expected a multiple of 8 (halved 3 times)`."
    if value % of:
        raise ValueError(f"{name} is {value}, expected a multiple of {of_is}")


def check_choice(name: str, value, allowed: Iterable):
    "One of the values in `allowed`. `ValueError`: `spacing is 'odd', expected one of ('trailing', 'leading')`."
    allowed = tuple(allowed)
    for choice in allowed:
        if isinstance(choice, bool) == isinstance(value, bool) and choice == value:  # True is not the number 1
            return choice
    raise ValueError(f"{name} is {_shown(value)}, expected one of {allowed}")


def check_shape(name: str, value, expected: Sequence[int | str]):
    """
    A tensor of the shape `expected`, in which a letter stands for any size: `("B", 3, "H", "W")`.

    `ValueError`: `x has shape (2, 1), expected (B, 3, H, W)`.
    """
    if not hasattr(value, "shape"):
        raise ValueError(f"{name} is {_shown(value)}, expected a tensor of shape {_in_words(expected)}")
    if not _fits(value.shape, expected):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {_in_words(expected)}")
    return value


def _fits(shape, expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(isinstance(e, str) or s == e for s, e in zip(shape, expected))


def _in_words(expected: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"


def check_same_shape(name: str, x, like_name: str, like) -> None:
    "Refuse what torch would silently stretch: `noise has shape (4,), expected that of x0, (4, 1, 28, 28)`."
    if x.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected that of {like_name}, {tuple(like.shape)}")


def check_index(name: str, value, table, low: int = 0, low_is: str = "") -> None:
    """
    An int, or an int64 tensor of shape () or (B,), from `low` to the last index of the tensor `table`.

    `low_is`: what `low` stands for, in words. Torch would take -2 for the last but one without a word. Values on a GPU
    are not looked at. `TypeError` for another type, `ValueError` for a value out of range or on another device.
    """
    from torch import Tensor, int64
    if isinstance(value, bool) or not isinstance(value, (Integral, Tensor)):
        raise TypeError(f"{name} is {_shown(value)}, expected an int or an int64 tensor")
    smallest = largest = value
    if isinstance(value, Tensor):
        if value.dtype != int64 or value.ndim > 1:
            raise TypeError(f"{name} is {value.dtype} of shape {tuple(value.shape)}, "
                            f"expected int64 of shape () or (B,)")
        if value.device != table.device:
            raise ValueError(f"{name} is on {value.device}, expected {table.device}, where what it picks from is")
        if value.device.type != "cpu" or value.numel() == 0:
            return  # reading values back from a GPU would make every training step wait for it
        smallest, largest = int(value.min()), int(value.max())
    if smallest < low or largest >= len(table):
        raise ValueError(f"{name} is {smallest if smallest < low else largest}, expected {low}"
                         f"{low_is and f' ({low_is})'} to {len(table) - 1}")


def as_float(x):
    "Images `x` in float32 or better, half precision widened. `TypeError` for integers, which are a mistake here."
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}, expected floating point in [-1, 1]; see to_model_range")
    return x.float() if x.dtype.itemsize < 4 else x


def check_images(name: str, x, expected: Sequence[int | str], device):
    """
    Images in floating point, of the shape `expected` (as in `check_shape`), on a device of the type of `device`.

    `ValueError`: `noise is torch.int64 of shape (2, 4) on cpu, expected floating point (B, 3) on cpu`.
    """
    if not x.is_floating_point() or not _fits(x.shape, expected) or x.device.type != device.type:
        raise ValueError(f"{name} is {x.dtype} of shape {tuple(x.shape)} on {x.device}, "
                         f"expected floating point {_in_words(expected)} on {device}")
    return x


def count_or_images(name: str, value) -> tuple:
    """
    How many images to draw, and None; or how many there are, and the images, where a tensor (B, ...) is given.

    `TypeError` for what is neither, `ValueError` for a number below 1.
    """
    from torch import Tensor
    if isinstance(value, Tensor) and value.ndim > 0:
        return len(value), value
    if isinstance(value, bool) or not isinstance(value, (Integral, Tensor)):
        raise TypeError(f"{name} is {_shown(value)}, expected float noise (B, ...), or how many images to draw")
    return check_number(name, value, 1, whole=True), None


def check_labels(y, n: int, num_labels: int):
    "Labels `y`, int64 (n,) of 0..num_labels-1. Values on a GPU are not looked at. `ValueError` for anything else."
    from torch import int64
    if y.dtype != int64 or y.shape != (n,):
        raise ValueError(f"y is {y.dtype} of shape {tuple(y.shape)}, expected int64 ({n},)")
    if y.device.type == "cpu" and n and not 0 <= int(y.min()) <= int(y.max()) < num_labels:
        raise ValueError(f"y goes from {int(y.min())} to {int(y.max())}, expected labels in 0..{num_labels - 1}")
    return y


def as_labels(y, n: int, device, num_labels: int | None = None):
    "Labels as int64 (n,): from None, one number for all images, or one for each; below `num_labels` if that is known."
    from torch import as_tensor
    if y is None:
        return None
    expected = f"expected one whole number, or one for each of the {n} images"
    try:
        y = as_tensor(y)
    except (TypeError, ValueError, RuntimeError):  # names of classes, lists of unequal length
        raise ValueError(f"y is {y!r}, {expected}") from None
    if y.is_floating_point() or y.ndim > 1 or (y.ndim == 1 and len(y) != n):
        raise ValueError(f"y is {y.dtype} of shape {tuple(y.shape)}, {expected}")
    y = y.long().expand(n)
    if num_labels is not None:
        check_labels(y.cpu(), n, num_labels)  # a network on a GPU would not say why
    return y.to(device)


def check_moves(name: str, pairs: Iterable, low: int, high: int, low_is: str) -> list[tuple[int, int]]:
    """
    Moves (t, t_prev) of whole numbers `low` to `high`: down, from where the last one ended, and in the end to `low`.

    `low_is`: what `low` stands for, in words. `ValueError` naming the move that does not fit.
    """
    pairs = [tuple(check_number(f"a level in {name}", level, low, high, whole=True) for level in pair)
             for pair in pairs]
    for i, pair in enumerate(pairs):
        if len(pair) != 2 or pair[0] <= pair[1]:
            raise ValueError(f"{name}[{i}] is {pair}, expected a move (t, t_prev) to a lower level")
        if i and pair[0] != pairs[i - 1][1]:
            raise ValueError(f"{name}[{i}] is {pair}, expected a move from where the last one ended, {pairs[i - 1][1]}")
    if not pairs or pairs[-1][1] != low:
        raise ValueError(f"{name} end at {pairs[-1][1] if pairs else None}, expected a last move to {low}, {low_is}")
    return pairs


def normal_like(x, generator=None):
    "Standard normal noise of the shape, dtype and device of `x`: `torch.randn_like`, which takes no generator."
    from torch import randn
    return randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def noise_source(shape, device, seed=None, seeds=None, generator=None) -> Callable:
    """
    A function that draws standard normal noise of `shape` (B, ...), float32, each time it is called.

    At most one of: `seed`, one number for the whole batch; `seeds`, one for each image, which makes an image
    independent of the batch it is in; `generator`, on the device of the model. Seeds are whole numbers of 0 to
    2**64 - 1. `ValueError` where that does not fit.
    """
    import torch
    if sum(given is not None for given in (seed, seeds, generator)) > 1:
        raise ValueError("seed, seeds and generator are given together, expected at most one of them")
    draw = lambda shape, g: torch.randn(shape, generator=g, device=device, dtype=torch.float32)
    seeded = lambda name, s: torch.Generator(device).manual_seed(check_number(name, s, 0, 2**64 - 1, whole=True))
    if seeds is not None:
        seeds = [seeds] if isinstance(seeds, Integral) else seeds
        if len(seeds) != shape[0]:
            raise ValueError(f"{len(seeds)} seeds for {shape[0]} images, expected one for each")
        each = [seeded(f"seeds[{i}]", s) for i, s in enumerate(seeds)]
        return lambda: torch.stack([draw(shape[1:], g) for g in each])
    generator = generator if seed is None else seeded("seed", seed)
    if generator is not None and torch.device(generator.device).type != torch.device(device).type:
        raise ValueError(f"generator is on {generator.device}, expected {device}, where the model is")
    return lambda: draw(shape, generator)
