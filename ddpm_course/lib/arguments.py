"""The refusals that many functions share. Each names the value and what was expected, and returns what it accepts."""
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def check_number(name: str, value, low=None, high=None, *, whole: bool = False, above: bool = False,
                 below: bool = False) -> int | float:
    """
    A number from `low` to `high`, as a plain int or float: `steps is 0, expected a whole number of 1 or more`.

    `low`, `high`: the ends, which belong to the range; None for no end. `above`: `low` itself is refused; `below`:
    `high` itself is. `whole`: only whole numbers. Numbers of NumPy and tensors of one number count as numbers, True and
    False do not, and NaN lies in no range. `ValueError` for anything else.
    """
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(number, Integral if whole else Real) and not isinstance(number, bool):
        high_enough = low is None or (number > low if above else number >= low)
        low_enough = high is None or (number < high if below else number <= high)
        if high_enough and low_enough and not math.isnan(number):
            return int(number) if isinstance(number, Integral) else float(number)
    raise ValueError(f"{name} is {_shown(number)}, expected {_range(number, low, high, whole, above, below)}")


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
    words = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
    if not hasattr(value, "shape"):
        raise ValueError(f"{name} is {_shown(value)}, expected a tensor of shape {words}")
    shape = tuple(value.shape)
    if len(shape) != len(expected) or any(not isinstance(e, str) and s != e for s, e in zip(shape, expected)):
        raise ValueError(f"{name} has shape {shape}, expected {words}")
    return value


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
    from torch import Tensor, int64  # here, so that a configuration can be checked without torch
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
