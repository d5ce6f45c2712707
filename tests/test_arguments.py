"""The shared refusals: what is let through comes back as a plain value, and what is not is named."""
import math

import numpy as np
import pytest
import torch

from ddpm_course.lib.arguments import (
    as_float,
    check_choice,
    check_images,
    check_index,
    check_labels,
    check_moves,
    check_multiple,
    check_number,
    check_numbers,
    check_same_shape,
    check_shape,
    count_or_images,
    normal_like,
)


def refusal(check, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        check(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_a_whole_number_comes_back_as_an_int(value):
    for options in ({}, {"low": 3, "high": 3, "whole": True}, {"low": 2, "above": True}, {"high": 4, "below": True}):
        got = check_number("n", value, **options)
        assert type(got) is int and got == 3


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_a_number_comes_back_as_a_float(value):
    got = check_number("eta", value, 0, 1)
    assert type(got) is float and got == 0.5
    assert check_number("snr", math.inf, 0) == math.inf


@pytest.mark.parametrize("value, options, words", [
    (0, {"low": 1, "whole": True}, "n is 0, expected a whole number of 1 or more"),
    (8.0, {"low": 1, "whole": True}, "n is 8.0, expected a whole number of 1 or more"),
    (np.float64(8), {"low": 1, "whole": True}, "n is 8.0, expected a whole number of 1 or more"),
    ("8", {"low": 1, "whole": True}, "n is '8', expected a whole number of 1 or more"),
    (True, {"low": 1, "whole": True}, "n is True, expected a whole number of 1 or more"),
    (np.True_, {"low": 1}, "n is True, expected a number, 1 or more"),
    (None, {"whole": True}, "n is None, expected a whole number"),
    (10**9, {"low": 1, "high": 100_000, "whole": True}, "n is 1000000000, expected a whole number from 1 to 100,000"),
    (-0.1, {"low": 0, "high": 1}, "n is -0.1, expected 0 to 1"),
    (1.1, {"low": 0, "high": 1}, "n is 1.1, expected 0 to 1"),
    (1, {"low": 0, "high": 1, "below": True}, "n is 1, expected 0 up to but not including 1"),
    (0.0, {"low": 0, "above": True}, "n is 0.0, expected more than 0"),
    (0, {"low": 0, "high": 1, "above": True}, "n is 0, expected more than 0 to 1"),
    (5, {"high": 4}, "n is 5, expected at most 4"),
    (4, {"high": 4, "below": True}, "n is 4, expected less than 4"),
    (math.nan, {}, "n is nan, expected a number"),
    (math.nan, {"low": 0}, "n is nan, expected 0 or more"),
    (torch.tensor(math.nan), {"high": 1}, "n is nan, expected at most 1"),
    ("0.1", {"low": 0, "above": True}, "n is '0.1', expected a number, more than 0"),
    (1 + 2j, {}, "n is (1+2j), expected a number"),
    (torch.ones(2), {}, "n is tensor([1., 1.]), expected a number"),
    (0, {"low": 1, "whole": True, "or_none": True}, "n is 0, expected None or a whole number of 1 or more"),
])
def test_numbers_that_are_refused(value, options, words):
    assert refusal(check_number, "n", value, **options) == words


def test_none_counts_where_it_may():
    assert check_number("n", None, 1, or_none=True) is None and check_number("n", 2, 1, or_none=True) == 2


def test_a_long_value_is_named_in_short():
    words = refusal(check_number, "seed", list(range(1000)))
    assert words.startswith("seed is [0, 1, 2, ") and words.endswith("..., expected a number") and len(words) < 150


def test_choices():
    assert check_choice("spacing", np.str_("leading"), {"trailing": 1, "leading": 2}) == "leading"
    got = check_choice("channels", np.int64(3), (1, 3))
    assert type(got) is int and got == 3
    assert check_choice("strict", False, (True, False)) is False
    assert refusal(check_choice, "spacing", "odd", ("trailing", "leading")) == \
        "spacing is 'odd', expected one of ('trailing', 'leading')"
    assert refusal(check_choice, "y", ["odd"], {"trailing": 1}) == "y is ['odd'], expected one of ('trailing',)"
    assert refusal(check_choice, "channels", True, (1, 3)) == "channels is True, expected one of (1, 3)"
    assert refusal(check_choice, "strict", 1, (True, False)) == "strict is 1, expected one of (True, False)"


def test_multiples():
    check_multiple("image_size", 32, 8, "8 (halved 3 times)")
    assert refusal(check_multiple, "image_size", 30, 8, "8 (halved 3 times)") == \
        "image_size is 30, expected a multiple of 8 (halved 3 times)"


def test_shapes():
    x = torch.zeros(2, 3, 4, 4)
    assert check_shape("x", x, (2, 3, 4, 4)) is x
    assert check_shape("x", x, ("B", 3, "H", "W")) is x
    assert refusal(check_shape, "x", x, ("B", 1, "H", "W")) == "x has shape (2, 3, 4, 4), expected (B, 1, H, W)"
    assert refusal(check_shape, "y", x, ("B",)) == "y has shape (2, 3, 4, 4), expected (B,)"
    assert refusal(check_shape, "y", torch.zeros(3), (2,)) == "y has shape (3,), expected (2,)"
    assert refusal(check_shape, "y", 7, (2,)) == "y is 7, expected a tensor of shape (2,)"


def test_several_numbers_are_a_tuple_and_the_bad_one_is_named():
    assert check_numbers("mults", [1, np.int64(2)], 1, whole=True) == (1, 2)
    for bad, words in ((2, "mults is 2, expected a tuple"), ("12", "mults is '12', expected a tuple"),
                       ((1, 0), r"mults is \(1, 0\); mults is 0, expected a whole number of 1 or more")):
        with pytest.raises(ValueError, match=words):
            check_numbers("mults", bad, 1, whole=True)


def test_an_index_is_whole_and_lies_in_its_table():
    table = torch.zeros(10)
    for good in (0, 9, np.int64(3), torch.tensor(9), torch.tensor([0, 9]), torch.tensor([], dtype=torch.int64)):
        check_index("t", good, table)
    check_index("t", -1, table, -1, "the clean image")
    for bad, words in ((-1, "t is -1, expected 0 to 9"), (10, "t is 10, expected 0 to 9"),
                       (torch.tensor([3, 10]), "t is 10, expected 0 to 9")):
        assert refusal(check_index, "t", bad, table) == words
    assert refusal(check_index, "t", -2, table, -1, "clean") == "t is -2, expected -1 (clean) to 9"
    for bad in (True, 1.0, "1", torch.tensor([1.0]), torch.tensor([[1]]), np.zeros(2, int)):
        with pytest.raises(TypeError, match=r"^t is .*expected (an int or an int64 tensor|int64 of shape)"):
            check_index("t", bad, table)


def test_shapes_are_the_same_and_images_are_float():
    x = torch.zeros(2, 1, 4, 4)
    check_same_shape("noise", x, "x0", x)
    assert refusal(check_same_shape, "noise", x[0], "x0", x) == \
        "noise has shape (1, 4, 4), expected that of x0, (2, 1, 4, 4)"
    assert as_float(x) is x and as_float(x.double()).dtype == torch.float64
    assert as_float(x.half()).dtype == as_float(x.bfloat16()).dtype == torch.float32
    with pytest.raises(TypeError, match="images are torch.uint8, expected floating point"):
        as_float(x.byte())


def test_images_are_float_of_one_shape_on_one_kind_of_device():
    x, cpu = torch.zeros(2, 3, 4, 4), torch.device("cpu")
    assert check_images("x", x, ("B", 3, 4, 4), cpu) is x
    expected = "expected floating point (B, 3, 4, 4) on cpu"
    for bad, words in ((x.long(), "x is torch.int64 of shape (2, 3, 4, 4) on cpu"),
                       (x[:, 1:], "x is torch.float32 of shape (2, 2, 4, 4) on cpu"),
                       (x.to("meta"), "x is torch.float32 of shape (2, 3, 4, 4) on meta")):
        assert refusal(check_images, "x", bad, ("B", 3, 4, 4), cpu) == f"{words}, {expected}"


def test_how_many_images_or_the_images():
    for x in (torch.zeros(3, 1), torch.zeros(0, 1)):
        n, images = count_or_images("n", x)
        assert n == len(x) and images is x
    for two in (2, np.int64(2), torch.tensor(2)):
        assert count_or_images("n", two) == (2, None)
    for bad in (2.0, True, "2", None, [[0.0]]):
        with pytest.raises(TypeError, match="^n is .*, expected float noise"):
            count_or_images("n", bad)
    for bad in (0, torch.tensor(0), torch.tensor(2.0)):
        assert refusal(count_or_images, "n", bad).endswith("expected a whole number of 1 or more")


def test_labels_are_int64_one_for_each_image():
    y = torch.tensor([0, 2, 1])
    assert check_labels(y, 3, 3) is y and len(check_labels(y[:0], 0, 3)) == 0
    check_labels(y.to("meta"), 3, 1)  # what lies elsewhere is not waited for
    for bad, n, words in ((y.float(), 3, "y is torch.float32 of shape (3,), expected int64 (3,)"),
                          (y, 2, "y is torch.int64 of shape (3,), expected int64 (2,)"),
                          (y - 1, 3, "y goes from -1 to 1, expected labels in 0..2"),
                          (y + 1, 3, "y goes from 1 to 3, expected labels in 0..2")):
        assert refusal(check_labels, bad, n, 3) == words


def test_moves_go_down_without_a_gap_to_the_end():
    assert check_moves("pairs", iter([[9, np.int64(4)], (4, -1)]), -1, 9, "clean") == [(9, 4), (4, -1)]
    for bad, words in (([(10, -1)], "a level in pairs is 10, expected a whole number from -1 to 9"),
                       ([(9, 4.0)], "a level in pairs is 4.0, expected a whole number from -1 to 9"),
                       ([(9, 4), (4, 4)], "pairs[1] is (4, 4), expected a move (t, t_prev) to a lower level"),
                       ([(9, 4, -1)], "pairs[0] is (9, 4, -1), expected a move (t, t_prev) to a lower level"),
                       ([(9, 4), (3, -1)], "pairs[1] is (3, -1), expected a move from where the last one ended, 4"),
                       ([(9, 4)], "pairs end at 4, expected a last move to -1, clean"),
                       ([], "pairs end at None, expected a last move to -1, clean")):
        assert refusal(check_moves, "pairs", bad, -1, 9, "clean") == words


def test_noise_is_like_what_it_is_for():
    x = torch.zeros(3, 1, dtype=torch.float64).expand(3, 4)
    seeded = lambda: torch.Generator().manual_seed(0)
    noise = normal_like(x, seeded())
    assert torch.equal(noise, torch.randn(3, 4, dtype=torch.float64, generator=seeded()))
    assert normal_like(x.half().to("meta")).dtype == torch.float16 and normal_like(x.to("meta")).device.type == "meta"
