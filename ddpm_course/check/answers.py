"""Questions whose answer is one number."""
from dataclasses import dataclass, field

from ..lib.arguments import check_choice, check_number
from .exercise import Verdict, pronounce
from .record import remember


@dataclass(frozen=True)
class Answer:
    "The right number, how far from it is still right, why it is right, and a sentence for each likely wrong one."
    value: float
    because: str
    within: float = 0.0
    mistakes: dict[float, str] = field(default_factory=dict)


ANSWERS = {
    "01 grey level of 0": Answer(
        128, "127.5 lies between two grey levels, and rounding takes the even one",
        mistakes={127: "the fraction of 127.5 is cut off here; to_uint8 rounds", 127.5: "pixels are whole numbers",
                  0: "0 is black as a pixel; in the range of the model it lies in the middle"}),
    "02 steps until half noise": Answer(
        259, "alpha_bar falls from 0.5002 to 0.4976 there",
        mistakes={260: "this is the paper's number, which counts from 1; the code index is asked for",
                  258: "alpha_bar is still 0.5029 there, and 0.5002 one step later",
                  500: "alpha_bar does not fall along a straight line: only 0.078 is left in the middle",
                  368: "sqrt(alpha_bar) is one half there, and alpha_bar a quarter; the variance is asked for"}),
    "04 loss of a network that answers 0": Answer(
        1, "the mean square of standard normal noise is its variance", within=0.05,
        mistakes={0: "the answer is 0, but the noise is not; the loss is the mean square of what is missed",
                  0.5: "half is a factor that the loss does not have"}),
    "07 parameters of a residual block": Answer(
        1_050_368, "768 in the norms, 885,248 in the convolutions, 131,328 for the time and 33,024 in the shortcut",
        mistakes={1_017_344: "the number of channels changes: the shortcut has weights too",
                  1_049_600: "the norms have two numbers a channel",
                  919_040: "the time has a linear layer of its own, 512 to 256",
                  1_049_344: "every convolution and the linear layer have a bias for each channel that they give"}),
    "07 levels until corners see each other": Answer(
        4, "at the end of the levels the window has a side of 11, 29, 65 and 137, and a corner needs 127",
        mistakes={3: "65 pixels hold the picture for a pixel in its middle; a corner needs 2 * 63 + 1 = 127",
                  5: "four are enough: the window has a side of 137 by then"}),
    "15 numbers in a file of weights": Answer(
        1_465_876, "two bytes for each of them, the header and the 8 bytes before it are the whole file",
        mistakes={111: "this is how many tensors there are; a tensor of shape [48, 4, 3, 3] holds 1,728 numbers",
                  1_470_812: "half the size of the file counts the header as numbers, too",
                  735_406: "a quarter of the size of the file would be numbers of four bytes; F16 has two",
                  2_931_752: "these are the bytes of the numbers, and F16 has two for each",
                  732_938: "F16 has two bytes for each number, not four",
                  2_941_624: "this is the size of the file, in bytes",
                  1_465_880: "the 8 bytes before the header are no weights either",
                  1_470_808: "the header, which follows the first 8 bytes, holds no weights",
                  9_864: "this is the length of the header, in bytes",
                  1_461_024: "these are the tensors that end in .weight; a bias is learned, too",
                  14_313: "sizes are multiplied, not added: a tensor of shape [48, 4, 3, 3] holds 1,728 numbers"}),
    "15 changes that are refused": Answer(
        2, "a byte that is missing by the fingerprint of the weights, other base_channels by a shape that does not fit",
        mistakes={5: "config.json has no fingerprint of its own, and the README draws nothing",
                  4: "config.json has no fingerprint of its own: what it says is believed where the weights fit it",
                  3: "what would a changed README draw? and what would notice a change that fits every name and shape?",
                  1: "the weights must fit as well: other base_channels are tensors of other shapes",
                  0: "the fingerprint of the weights stands in config.json, and is compared"}),
    "15 heads in the middle": Answer(
        32, "a missing key means heads of width 8, and 256 / 8 = 32 of them fit",
        mistakes={8: "8 is the width of a head; how many of that width fit?",
                  16: "the second level has so many; the middle is as wide as the last",
                  1: "one head would be null, written out; a key that is missing means a width of 8"}),
}


def answer(name: str, value: float, *, record: bool = True) -> Verdict:
    """
    Compare the reader's number `value` with the answer to the question `name`, one of `ANSWERS`; print what was found.

    None, or `...`, is no answer yet. `record`: whether `check.progress()` shall know. `ValueError` for another name.
    """
    right = ANSWERS[check_choice("name", name, ANSWERS)]
    if value is None or value is ...:
        return pronounce(name, False, "not answered yet")
    try:
        value = check_number("value", value)
    except ValueError as error:
        return pronounce(name, False, str(error))
    if abs(value - right.value) <= right.within:
        if record:
            remember(name)
        return pronounce(name, True, f"right: {right.because}")
    mistake = right.mistakes.get(value)
    return pronounce(name, False, mistake or f"{value} is too {'small' if value < right.value else 'large'}", mistake)
