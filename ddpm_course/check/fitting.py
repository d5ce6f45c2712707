"""The exercise of chapter 16 that is a function."""
from collections.abc import Callable

from .exercise import Exercise


def _step(bytes_each: float, images: Callable = lambda batch, parts: batch / parts) -> Callable:
    "The memory of an update with so many bytes for a parameter and activations for so many images."
    return lambda parameters, per_image, batch_size, accumulate: (
        bytes_each * parameters + per_image * images(batch_size, accumulate))


def _a_number(function: Callable, *case):
    "What it returns; bytes may be counted in whole numbers."
    found = function(*case)
    return float(found) if type(found) is int else found


step_memory = Exercise(
    "step_memory", "16", "(parameters, per_image, batch_size, accumulate), which returns a number of bytes",
    reference=_step(20),
    probe=_a_number,
    cases=lambda: [(280_881, 2_626_396, 32, 1), (35_746_307, 51_110_720, 128, 4)],
    mistakes={
        "the gradient, the two numbers that Adam remembers, and the average take memory beside the weights": _step(4),
        "Adam remembers two numbers for every weight, and the average of the weights is one more": _step(8),
        "these are 12 bytes a parameter, three numbers; there are five: weight, gradient, two of Adam, average":
            _step(12),
        "these are 16 bytes a parameter, four numbers; there are five: weight, gradient, two of Adam, average":
            _step(16),
        "numbers are counted here; in float32 each takes 4 bytes": _step(5),
        "these are 2 bytes for each of five numbers; they stay in float32, 4 bytes each": _step(10),
        "the weights and what belongs to them are missing": _step(0),
        "with one part the gradients do come while the activations go; take the larger number to plan with, 20 P":
            lambda parameters, per_image, batch_size, accumulate:
                _step(16 if accumulate == 1 else 20)(parameters, per_image, batch_size, accumulate),
        "it counts MB or GB, expected bytes":
            tuple(lambda *case, unit=unit: _step(20)(*case) / unit for unit in (1e6, 1e9, 2**20, 2**30)),
        "per_image counts bytes already, and not numbers of 4": _step(20, lambda batch, parts: 4 * batch / parts),
        "the activations are missing": _step(20, lambda batch, parts: 0),
        "the activations of one image are counted; those of all images of a part are kept until its backward pass":
            (_step(20, lambda batch, parts: 1), _step(20, lambda batch, parts: 1 / parts)),
        "the activations of the whole batch are counted; of parts that go through one after the other only those of "
        "one are there at a time": _step(20, lambda batch, parts: batch),
        "more parts need less memory, not more": _step(20, lambda batch, parts: batch * parts),
        "accumulate divides the activations alone; weights, gradients and the rest are there whole":
            lambda parameters, per_image, batch_size, accumulate:
                (20 * parameters + per_image * batch_size) / accumulate,
        "the weights are there once, not once for every image":
            lambda parameters, per_image, batch_size, accumulate:
                (20 * parameters + per_image) * batch_size / accumulate},
    compared="(16.1) for a network of the digits, and for the paper's with a batch in four parts")
