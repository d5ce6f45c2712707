"""Bad input to the modules of chapters 01 to 05 gets an error that names the value and what was expected."""
import pytest
import torch

from ddpm_course.data import ImageDataset, load_digits, load_images, to_model_range, to_uint8
from ddpm_course.exact import GaussianMixture, IdealDenoiser, loss_floor, step_back
from ddpm_course.forward import (PREDICTIONS, Gaussian, NoiseSchedule, denoised_from, linear_beta_schedule, per_sample,
                                 prediction_target)
from ddpm_course.likelihood import bits_per_dim, discretized_log_prob, vlb_terms
from ddpm_course.objective import Denoiser, loss_weight, offset_noise
from ddpm_course.schedules import (_grid, betas_from_alpha_bar, exponential_beta_schedule, make_schedule,
                                   rescale_zero_terminal_snr, time_pairs)

NAN, INF = float("nan"), float("inf")


def refused(call, kind, words):
    "`call` must raise `kind` with a message in which `words` occur."
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value), caught.value


def test_data():
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    x0 = to_model_range(pixels)
    refused(lambda: to_model_range(x0), TypeError, "images are torch.float32, expected torch.uint8")  # a second call
    refused(lambda: to_uint8(pixels), TypeError, "x is torch.uint8, expected a floating point")
    for bad in (NAN, INF, -INF):
        refused(lambda: to_uint8(torch.tensor([0.0, bad])), ValueError, "NaN or infinite values, expected finite ones")
    refused(lambda: load_digits("validation"), ValueError, "split is 'validation', expected one of ('train', 'test')")
    refused(lambda: ImageDataset(x0), ValueError, "torch.float32 (4, 1, 2, 2), expected torch.uint8 (N, C, H, W)")
    refused(lambda: ImageDataset(pixels[0]), ValueError, "torch.uint8 (1, 2, 2), expected torch.uint8 (N, C, H, W)")
    refused(lambda: ImageDataset(pixels, torch.zeros(3)), ValueError, "labels have shape (3,), expected (4,)")
    for name, value, words in (("name_or_folder", "imagenet", "data is 'imagenet', expected a folder of images or one"),
                               ("image_size", 0, "image_size is 0, expected a whole number of 1 or more"),
                               ("image_size", 28.0, "image_size is 28.0, expected a whole number of 1 or more"),
                               ("channels", 2, "channels is 2, expected 1 (grey) or 3 (RGB)"),
                               ("split", "all", "split is 'all', expected one of ('train', 'test')")):
        options = {"name_or_folder": "mnist", "image_size": 28, "channels": 1, name: value}
        refused(lambda: load_images(**options), ValueError, words)


def test_forward():
    refused(lambda: linear_beta_schedule(0), ValueError, "T is 0, expected a whole number of 1 or more")
    refused(lambda: linear_beta_schedule(20), ValueError, "T=20) leave (0, 1); take more steps")
    for bad, words in (([0.1, 0.0], "betas[1] is 0,"), ([0.1, 1.2], "betas[1] is 1.2,"), ([1.0, 0.1], "betas[0] is 1,"),
                       ([0.1, -0.1], "betas[1] is -0.1,"), ([[0.1]], "shape (1, 1)"), ([], "shape (0,)"),
                       (0.1, "shape ()"), ([0.1, NAN], "NaN"), ([0.1, INF], "infinite")):
        refused(lambda: NoiseSchedule(torch.tensor(bad)), ValueError, words)
    x = torch.zeros(4, 1, 2, 4)
    refused(lambda: per_sample(torch.arange(3.0), x), ValueError, "shape (3,), expected () or (4,)")
    refused(lambda: per_sample(torch.zeros(4, 1), x), ValueError, "shape (4, 1), expected () or (4,)")

    schedule, t = NoiseSchedule(linear_beta_schedule()), torch.tensor([0, 10, 999])
    images = noise = torch.zeros(3, 1, 4, 4)
    for bad, kind, words in (
        (1000, ValueError, "t is 1000, expected"),
        (-2, ValueError, "t is -2, expected"),
        (torch.tensor([0, 1000, 1]), ValueError, "t is 1000, expected"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "torch.float32 of shape (3,), expected int64"),
        (torch.tensor([True, False, True]), TypeError, "torch.bool of shape (3,), expected int64"),
        (True, TypeError, "t is True, expected an int"),
        (1.5, TypeError, "t is 1.5, expected an int"),
        ("3", TypeError, "t is '3', expected an int"),
        (torch.zeros(3, 1).long(), TypeError, "shape (3, 1), expected int64 of shape () or (B,)"),
        (t.int(), TypeError, "torch.int32 of shape (3,), expected int64"),
        (t.to("meta"), ValueError, "on meta, expected cpu"),
        (torch.arange(2), ValueError, "shape (2,), expected () or (3,)"),
    ):
        refused(lambda: schedule.q_sample(images, bad, noise), kind, words)
        refused(lambda: schedule.q_posterior(images, noise, bad), kind, words)
        refused(lambda: schedule.q_step(images, bad), kind, words)
    for bad in (-2, 1000):
        for look_up in (schedule.scales, schedule.alpha_bar, schedule.one_minus_alpha_bar, schedule.snr):
            refused(lambda: look_up(bad), ValueError, f"t is {bad}, expected -1 (the clean image) to 999")
    for bad in (-1, torch.tensor([5, -1, 5])):  # no step leads to the clean image
        for call in (lambda: schedule.q_step(images, bad), lambda: schedule.q_posterior(images, noise, bad)):
            refused(call, ValueError, "t is -1, expected 0 (the first step) to 999")
    refused(lambda: schedule.q_sample(images, t, noise[:2]), ValueError,
            "noise has shape (2, 1, 4, 4), expected that of x0")
    refused(lambda: schedule.q_posterior(images[0], noise, t), ValueError,
            "x0 has shape (1, 4, 4), expected that of x_t")
    whole = images.to(torch.uint8)
    for call in (lambda: schedule.q_sample(whole, t), lambda: schedule.q_step(whole, t),
                 lambda: schedule.q_posterior(whole, whole, t)):
        refused(call, TypeError, "images are torch.uint8, expected floating point")

    x, column = torch.zeros(3), torch.zeros(3, 1)  # (B, 1), where (B,) would be stretched
    for prediction in PREDICTIONS:
        refused(lambda: denoised_from(schedule, x, x, 1000, prediction), ValueError, "t is 1000, expected")
    for call in (lambda: prediction_target(schedule, x, x, t, "noise"),
                 lambda: denoised_from(schedule, x, x, t, "noise")):
        refused(call, ValueError, "prediction is 'noise', expected one of ('eps', 'x0', 'v')")
    refused(lambda: denoised_from(schedule, x, column, t, "eps"), ValueError,
            "output has shape (3,), expected that of x_t, (3, 1)")
    refused(lambda: prediction_target(schedule, x, column, t, "v"), ValueError,
            "noise has shape (3, 1), expected that of x0, (3,)")


def test_exact():
    pair = [[0.0], [1.0]]
    for bad, words in ((([1.0],), "means have shape (1,)"), (([[]],), "means have shape (1, 0)"),
                       (([[NAN]],), "all finite"), (([[0.0]], [NAN]), "NaN"),
                       (([[0.0]], [-0.1]), "eigenvalue -0.1"), (([[0.0]], [1.0, 2.0]), "(2,), expected (), (1,) or"),
                       (([[0.0, 0.0]], torch.eye(2)), "shape (2, 2)"),
                       (([[0.0, 0.0]], [[[1, 2], [2, 1]]]), "eigenvalue -1"),
                       (([[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "not symmetric"),
                       ((pair, 1.0, [0.5, 0.6]), "weights are [0.5, 0.6], expected 2 positive numbers with sum 1"),
                       ((pair, 1.0, [1.5, -0.5]), "weights are [1.5, -0.5], expected 2 positive"),
                       (([[0.0]], 1.0, [NAN]), "weights are [nan], expected 1 positive"),
                       ((pair, 1.0, [1.0]), "weights are [1.0], expected 2 positive"),
                       ((pair, 1.0, [1.0, 0.0]), "weights are [1.0, 0.0], expected 2 positive")):
        refused(lambda: GaussianMixture(*bad), ValueError, words)

    schedule = NoiseSchedule(linear_beta_schedule())
    plane = GaussianMixture([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], 0.1)
    x = torch.zeros(6, 2)
    for flat in ([0.0], [[[1.0, 2.0], [2.0, 4.0]]]):  # a point, and a bell that is all on a line
        refused(lambda: GaussianMixture([[0.0, 0.0]], flat).log_prob(x), ValueError, "a bell has variance 0")
    refused(lambda: plane.log_prob(x[:, :1]), ValueError, "x has shape (6, 1), expected (B, 2)")
    refused(lambda: plane.score(x[0]), ValueError, "x has shape (2,), expected (B, 2)")
    refused(lambda: plane.at(schedule, 1000), ValueError, "t is 1000, expected")

    ideal, y = IdealDenoiser(plane, schedule), torch.tensor([0, 1, 2, 2, 1, 0])
    for bad, kind, words in (
        ((x[:, :1], 3), ValueError, "(6, 1), expected floating point (B, *(2,))"),
        ((x.long(), 3), ValueError, "torch.int64 (6, 2), expected floating point"),
        ((x, 1000), ValueError, "t is 1000, expected"),
        ((x, 1.5), TypeError, "t is 1.5, expected"),
        ((x, True), TypeError, "t is True, expected"),
        ((x, torch.zeros(6)), TypeError, "t is torch.float32"),
        ((x, torch.zeros(5, dtype=torch.int64)), ValueError, "shape (5,), expected () or (6,)"),
        ((x, 3, y[:5]), ValueError, "shape (5,), expected int64 (6,)"),
        ((x, 3, y + 1), ValueError, "values 0 to 2"),
        ((x, 3, y - 1), ValueError, "values 0 to 2"),
        ((x, 3, y.float()), ValueError, "y is torch.float32"),
    ):
        refused(lambda: ideal(*bad), kind, words)
    refused(lambda: IdealDenoiser(plane, schedule, shape=(1, 28, 28)), ValueError,
            "shape is (1, 28, 28), expected 2 numbers")

    for bad in (400, -2, 500):
        refused(lambda: step_back(plane, schedule, 400, x[0], bad), ValueError, f"t_prev is {bad}, expected -1 to 399")
    refused(lambda: step_back(plane, schedule, 400, x[0, :1]), ValueError, "x has shape (1, 1), expected (B, 2)")
    for bad, words in ((dict(t=-1), "t is -1, expected a noise level"), (dict(t=1000), "t is 1000, expected"),
                       (dict(t=5, prediction="noise"), "prediction is 'noise', expected one of")):
        refused(lambda: loss_floor(ideal, **bad), ValueError, words)


class Blank(torch.nn.Module):
    "A network that answers 0 everywhere."
    def forward(self, x, t, y=None):
        return torch.zeros_like(x)


def test_objective():
    schedule, shape = NoiseSchedule(linear_beta_schedule(25)), (1, 4, 4)
    refused(lambda: loss_weight(schedule, torch.tensor([3]), "eps", "karras"), ValueError,
            "weighting is 'karras', expected one of")
    refused(lambda: Denoiser(Blank(), schedule, "noise", shape=shape), ValueError, "prediction is 'noise', expected")
    for ends_in_noise in (NoiseSchedule(torch.tensor([0.5, 1.0])), make_schedule("linear", zero_terminal_snr=True)):
        refused(lambda: Denoiser(Blank(), ends_in_noise, "eps", shape=shape), ValueError, "zero terminal SNR")
    noise = torch.zeros(2, 3, 4, 4)
    for bad, words in (((noise[0], 0.1), "noise has shape (3, 4, 4) and"), ((noise, -0.1), "strength is -0.1"),
                       ((noise, NAN), "strength is nan")):
        refused(lambda: offset_noise(*bad), ValueError, words)
        refused(lambda: offset_noise(*bad), ValueError, "expected (B, C, H, W) and 0 or more")
    for bad in (0.1, 1 + 2 / 255, -1 - 2 / 255):
        refused(lambda: discretized_log_prob(Gaussian(torch.zeros(1), torch.ones(1)), torch.tensor([bad])), ValueError,
                "off the grid")

    denoiser, images = Denoiser(Blank(), schedule, "x0", shape=shape), torch.ones(2, *shape)
    for options, words in (({"variance": "beta"}, "variance is 'beta', expected one of"),
                           ({"decoder": "rounded"}, "decoder is 'rounded', expected one of"),
                           ({"clip": None, "decoder": "discretised"}, "decoder is 'discretised', expected one of"),
                           ({"levels": [0]}, "levels are [0], expected code levels in 1..24"),
                           ({"levels": [25]}, "levels are [25], expected code levels in 1..24")):
        refused(lambda: vlb_terms(denoiser, images, **options), ValueError, words)
    refused(lambda: bits_per_dim(denoiser, images, levels=0), ValueError, "levels is 0, expected a whole number of 1 or more")
    refused(lambda: bits_per_dim(denoiser, images - 0.001), ValueError, "off the grid")


def test_schedules():
    refused(lambda: exponential_beta_schedule(20), ValueError, "take more steps")
    refused(lambda: _grid(0), ValueError, "T is 0, expected a whole number of 1 or more")
    for bad, words in (([0.9, 0.5], "expected (T+1,) starting with 1"),
                       ([[1.0, 0.5]], "shape (1, 2)"), ([1.0], "shape (1,)"),
                       ([1.0, 0.5, 0.5], "from 0.5 to 0.5 at step 1"), ([1.0, 0.5, -0.1], "to -0.1 at step 1"),
                       ([1.0, NAN], "to nan at step 0")):
        refused(lambda: betas_from_alpha_bar(torch.tensor(bad)), ValueError, words)
    refused(lambda: rescale_zero_terminal_snr(torch.tensor([[0.1, 0.2]])), ValueError, "betas have shape (1, 2)")
    refused(lambda: rescale_zero_terminal_snr(torch.tensor([0.1, 2.0])), ValueError, "betas[1] is 2, expected")
    refused(lambda: make_schedule("cosin"), ValueError, "schedule is 'cosin', expected one of ('linear', 'cosine'")
    for steps in (0, 101):
        refused(lambda: time_pairs(100, steps), ValueError, f"steps is {steps}, expected a whole number from 1 to 100")
    refused(lambda: time_pairs(100, 10, "uniform"), ValueError, "spacing is 'uniform', expected one of")
    refused(lambda: time_pairs(100, 10, "logsnr", schedule=make_schedule("linear")), ValueError,
            "the schedule has 1000 steps, expected T = 100")
