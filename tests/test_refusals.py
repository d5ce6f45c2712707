"""Bad input gets an error that names the value and what was expected: all refusals, a section for each module."""
import dataclasses
import json
import math
import os
import pickle
import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import sympy
import torch
from safetensors.torch import load_file
from small_models import (
    GOOGLE,
    GOOGLE_SCHEDULER,
    IN_DIFFUSERS,
    MakesFolder,
    description,
    files_below,
    same_model,
    small_denoiser,
    stand_in_for_the_hub,
)

from ddpm_course.app.checkpoints import resume_from, save_checkpoint
from ddpm_course.app.cli import main
from ddpm_course.app.config import TrainConfig
from ddpm_course.app.fitting import make_it_fit
from ddpm_course.app.processes import pick_device
from ddpm_course.app.run import DATA, new_state, train, training_steps
from ddpm_course.conventions import convert_level, convert_output, convert_state, level_at, sigma_at
from ddpm_course.data import ImageDataset, load_digits, load_images, to_model_range, to_uint8
from ddpm_course.ddim import ddim_invert, ddim_sample, ddim_steps, slerp
from ddpm_course.ddpm import Sampling, as_labels, ddpm_sample, ddpm_steps, noise_source
from ddpm_course.embedding import timestep_embedding
from ddpm_course.exact import GaussianMixture, IdealDenoiser, loss_floor, step_back
from ddpm_course.formats.diffusers import (
    UNET_DEFAULTS,
    scheduler_from_diffusers,
    scheduler_to_diffusers,
    unet_from_diffusers,
    unet_to_diffusers,
)
from ddpm_course.formats.model_folder import build, checkpoints, describe
from ddpm_course.forward import (
    PREDICTIONS,
    Denoised,
    Gaussian,
    NoiseSchedule,
    denoised_from,
    linear_beta_schedule,
    per_sample,
    prediction_target,
)
from ddpm_course.guidance import with_guidance
from ddpm_course.hub import from_diffusers, load_pretrained, save_pretrained, to_diffusers
from ddpm_course.lib.ledger import equation, read_ledger
from ddpm_course.lib.storage import (
    check_tensors,
    read_json,
    read_verified,
    tensors_from_bytes,
    tensors_to_bytes,
    write_folder,
    write_json,
)
from ddpm_course.lib.viz import save_gif, to_pixels
from ddpm_course.likelihood import bits_per_dim, discretized_log_prob, vlb_terms
from ddpm_course.objective import Denoiser, loss_weight, offset_noise
from ddpm_course.schedules import (
    _grid,
    betas_from_alpha_bar,
    exponential_beta_schedule,
    make_schedule,
    rescale_zero_terminal_snr,
    time_pairs,
)
from ddpm_course.solvers import dpmpp_sample, dpmpp_steps, heun_sample, heun_steps, plms_sample, plms_steps
from ddpm_course.training import train_step
from ddpm_course.unet import UNet, UNetConfig

NAN, INF = float("nan"), float("inf")
SCHEDULE = NoiseSchedule(linear_beta_schedule())
PICTURES = IdealDenoiser(GaussianMixture([[0.5] * 16, [-0.5] * 16], 0.1), SCHEDULE, shape=(1, 4, 4))
POINTS = IdealDenoiser(GaussianMixture([[-1.0, -0.5], [1.0, 0.2]], 0.02), SCHEDULE)
LABELLED = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_mults=(1, 2), num_res_blocks=1,
                      attention_resolutions=(4,), groups=2, dropout=0.0, num_classes=10)
TINY = TrainConfig(base_channels=8, groups=4, num_timesteps=100, batch_size=8, steps=3, warmup=2, sample_steps=4,
                   samples=4, previews=0, validation=0, device="cpu")


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
                       (0.1, "shape ()"), ([0.1, NAN], "betas[1] is nan,"), ([INF, 0.1], "betas[0] is inf,")):
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
        ((x[:, :1], 3), ValueError, "(6, 1) on cpu, expected floating point (B, 2) on cpu"),
        ((x.long(), 3), ValueError, "x_t is torch.int64 of shape (6, 2) on cpu, expected floating point"),
        ((x, 1000), ValueError, "t is 1000, expected"),
        ((x, 1.5), TypeError, "t is 1.5, expected"),
        ((x, True), TypeError, "t is True, expected"),
        ((x, torch.zeros(6)), TypeError, "t is torch.float32"),
        ((x, torch.zeros(5, dtype=torch.int64)), ValueError, "shape (5,), expected () or (6,)"),
        ((x, 3, y[:5]), ValueError, "shape (5,), expected int64 (6,)"),
        ((x, 3, y + 1), ValueError, "y goes from 1 to 3, expected labels in 0..2"),
        ((x, 3, y - 1), ValueError, "y goes from -1 to 1, expected labels in 0..2"),
        ((x, 3, y.float()), ValueError, "y is torch.float32"),
    ):
        refused(lambda: ideal(*bad), kind, words)
    refused(lambda: IdealDenoiser(plane, schedule, shape=(1, 28, 28)), ValueError,
            "shape is (1, 28, 28), expected 2 numbers")

    for bad in (400, -2, 500):
        refused(lambda: step_back(plane, schedule, 400, x[0], bad), ValueError, f"t_prev is {bad}, expected -1 to 399")
    refused(lambda: step_back(plane, schedule, 400, x[0, :1]), ValueError, "x has shape (1, 1), expected (B, 2)")
    for bad, words in ((dict(t=-1), "t is -1, expected 0 (the first noise level) to 999"),
                       (dict(t=1000), "t is 1000, expected"),
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
    for bad, words in (((noise[0], 0.1), "noise has shape (3, 4, 4), expected (B, C, H, W)"),
                       ((noise, -0.1), "strength is -0.1, expected 0 or more"),
                       ((noise, NAN), "strength is nan, expected 0 or more")):
        refused(lambda: offset_noise(*bad), ValueError, words)
    for bad in (0.1, 1 + 2 / 255, -1 - 2 / 255):
        refused(lambda: discretized_log_prob(Gaussian(torch.zeros(1), torch.ones(1)), torch.tensor([bad])), ValueError,
                "off the grid")

    denoiser, images = Denoiser(Blank(), schedule, "x0", shape=shape), torch.ones(2, *shape)
    for options, words in (({"variance": "beta"}, "variance is 'beta', expected one of"),
                           ({"decoder": "rounded"}, "decoder is 'rounded', expected one of"),
                           ({"clip": None, "decoder": "discretised"}, "decoder is 'discretised', expected one of"),
                           ({"levels": [3, 0]}, "levels is [3, 0]; levels is 0, expected a whole number from 1 to 24"),
                           ({"levels": [25]}, "levels is 25, expected a whole number from 1 to 24")):
        refused(lambda: vlb_terms(denoiser, images, **options), ValueError, words)
    refused(lambda: bits_per_dim(denoiser, images, levels=0), ValueError,
            "levels is 0, expected None or a whole number of 1 or more")
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


class Breaks(IdealDenoiser):
    "Sees nothing but `bad` numbers in the image at all levels below 500."

    def __init__(self, bad):
        super().__init__(POINTS.mixture, SCHEDULE)
        self.bad = bad

    def __call__(self, x_t, t, y=None):
        x0, eps = super().__call__(x_t, t, y)
        return Denoised(x0 if t >= 500 else torch.full_like(x0, self.bad), eps)


def test_embedding():
    refused(lambda: timestep_embedding(torch.tensor(3), 8), ValueError, "t has shape () and dim is 8, expected (B,)")
    refused(lambda: timestep_embedding(torch.arange(5), 3), ValueError, "dim is 3, expected (B,) and 4 or more")


def test_unet_config():
    leasts = dict(image_size=1, image_channels=1, num_res_blocks=1, heads=1, groups=1, patch_size=1, base_channels=4)
    for name, least in leasts.items():
        for bad in (least - 1, 8.0, "8", True, None):
            refused(lambda: UNetConfig(**{name: bad}), ValueError,
                    f"{name} is {bad!r}, expected a whole number of {least} or more")
    for bad, words in [
        (dict(channel_mults=()), "channel_mults is ()"),
        (dict(channel_mults=(1, 0)), "channel_mults is (1, 0)"),
        (dict(channel_mults=(1, 1.5)), "channel_mults is (1, 1.5)"),
        (dict(channel_mults=2), "channel_mults is 2, expected a tuple"),
        (dict(attention_resolutions=16), "attention_resolutions is 16, expected a tuple"),
        (dict(num_classes=0), "num_classes is 0, expected None or a whole number"),
        (dict(num_classes=2.0), "num_classes is 2.0"),
        (dict(dropout=1.0), "dropout is 1.0, expected 0 up to but not including 1"),
        (dict(dropout=-0.1), "dropout is -0.1"),
        (dict(dropout=None), "dropout is None"),
        (dict(dropout=math.nan), "dropout is nan"),
        (dict(null_label="no"), "null_label is 'no', expected one of (True, False)"),
        (dict(self_conditioning=1), "self_conditioning is 1, expected one of (True, False)"),
        (dict(image_size=30), "image_size is 30, expected a multiple of 8"),
        (dict(image_size=40, patch_size=2), "image_size is 40, expected a multiple of 16"),
        (dict(attention_resolutions=(16, 12)), "attention_resolutions has [12]"),
        (dict(attention_resolutions=(16, "8")), "attention_resolutions is '8', expected a whole number"),
        (dict(base_channels=48), "base_channels * 1 is 48, expected a multiple of groups = 32"),
        (dict(base_channels=16, channel_mults=(2,), attention_resolutions=()), "base_channels * 1 is 16"),
        (dict(heads=3), "base_channels * 1 is 128, expected a multiple of heads = 3"),
    ]:
        refused(lambda: UNetConfig(**bad), ValueError, words)


def test_unet():
    change = lambda **fields: UNet(dataclasses.replace(LABELLED, **fields))
    labelled, strict, plain = change(), change(null_label=False), change(num_classes=None)
    conditioned = change(num_classes=None, self_conditioning=True)
    folding = change(num_classes=None, image_size=16, image_channels=2, patch_size=2)
    x, t, zeros = torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.zeros
    for model, arguments, kind, words in [
        (plain, (zeros(3, 1, 9, 8), t), ValueError,
         "images have shape (3, 1, 9, 8), expected (B, 1, H, W) with H and W multiples of 2"),
        (plain, (zeros(3, 1, 8, 7), t), ValueError, "multiples of 2"),
        (plain, (zeros(3, 3, 8, 8), t), ValueError, "expected (B, 1, H, W)"),
        (plain, (zeros(3, 8, 8), t), ValueError, "images have shape (3, 8, 8)"),
        (plain, (zeros(3, 1, 8, 8).byte(), t), TypeError, "images are torch.uint8, expected floating point"),
        (folding, (zeros(3, 2, 18, 16), t), ValueError, "multiples of 4"),
        (plain, (x, t, zeros(3, dtype=torch.int64)), ValueError, "this network does not know labels"),
        (plain, (x, t[:1]), ValueError, "t has shape (1,), expected (3,)"),
        (plain, (x, t, None, x), ValueError, "has no self-conditioning"),
        (conditioned, (x, t, None, x[:2]), ValueError,
         "x0_prev has shape (2, 1, 8, 8), expected that of x, (3, 1, 8, 8)"),
        (strict, (x, t), ValueError, "y is None, expected labels 0..9"),
        (labelled, (x, t, zeros(3)), ValueError, "y is torch.float32 of shape (3,), expected int64 (3,)"),
        (labelled, (x, t, zeros(2, dtype=torch.int64)), ValueError, "of shape (2,), expected int64 (3,)"),
        (labelled, (x, t, torch.tensor([0, 5, 11])), ValueError, "y goes from 0 to 11, expected labels in 0..10"),
        (labelled, (x, t, torch.tensor([0, 5, -1])), ValueError, "y goes from -1 to 5"),
        (strict, (x, t, torch.tensor([0, 5, 10])), ValueError, "expected labels in 0..9"),
    ]:
        refused(lambda: model(*arguments), kind, words)


def test_objective_of_a_network():
    ends_in_noise = make_schedule("cosine", 20, zero_terminal_snr=True)
    refused(lambda: Denoiser(UNet(LABELLED), ends_in_noise, "eps", shape=(1, 8, 8)), ValueError, "zero terminal SNR")


def test_ddpm():
    for bad, kind, words in [
        (dict(noise_or_n=0), ValueError, "noise_or_n is 0, expected a whole number of 1 or more"),
        (dict(noise_or_n=-3), ValueError, "n is -3"),
        (dict(noise_or_n=torch.zeros(2, 1, 4, 5)), ValueError, "of shape (2, 1, 4, 5)"),
        (dict(noise_or_n=torch.zeros(2, 1, 4, 4).long()), ValueError, "noise is torch.int64"),
        (dict(noise_or_n=torch.zeros(2, 1, 4, 4, device="meta")), ValueError, "on meta, expected"),
        (dict(noise_or_n=2.0), TypeError, "float"),
        (dict(seed=1, seeds=[1, 2]), ValueError, "at most one"),
        (dict(seeds=[1]), ValueError, "1 seeds for 2 images"),
        (dict(seeds=1), ValueError, "1 seeds for 2 images"),
        (dict(y="cat"), ValueError, "y is 'cat', expected one whole number, or one for each of the 2 images"),
        (dict(y=["cat", "dog"]), ValueError, "y is ['cat', 'dog'], expected"),
        (dict(y=[[0], [0, 1]]), ValueError, "y is [[0], [0, 1]], expected"),
        (dict(steps=0), ValueError, "steps is 0"),
        (dict(steps=1001), ValueError, "steps is 1001"),
        (dict(variance="medium"), ValueError, "variance is 'medium', expected one of ('small', 'large')"),
        (dict(spacing="odd"), ValueError, "'odd'"),
        (dict(y=[1, 2, 3]), ValueError, "2 images"),
        (dict(y=0.5), ValueError, "whole number"),
    ]:
        refused(lambda: list(ddpm_steps(**{"denoiser": PICTURES, "noise_or_n": 2, "steps": 3, **bad})), kind, words)
    refused(lambda: noise_source((2, 1), "cuda", generator=torch.Generator()), ValueError,
            "generator is on cpu, expected cuda")
    strict = Denoiser(UNet(dataclasses.replace(LABELLED, num_classes=3, null_label=False)), SCHEDULE, shape=(1, 8, 8))
    refused(lambda: ddpm_sample(strict, 2, steps=1, progress=False), ValueError, "y is None, expected labels")
    for bad in (3, [0, -1]):
        refused(lambda: Sampling(strict, 2, y=bad), ValueError, "expected labels in 0..2")
        refused(lambda: as_labels(bad, 2, "meta", 3), ValueError, "expected labels in 0..2")
    for bad in (math.nan, math.inf):
        refused(lambda: ddpm_sample(Breaks(bad), 1, steps=10, progress=False), FloatingPointError, "at t = 499")


def test_ddim():
    given = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for bad, words in [
        (dict(eta=-0.1), "eta is -0.1, expected 0 to 1"),
        (dict(eta=1.1), "eta is 1.1"),
        (dict(eta=math.nan), "eta is nan"),
        (dict(steps=0), "steps is 0"),
        (dict(steps=1001), "steps is 1001"),
        (dict(spacing="odd"), "'odd'"),
        (dict(noise_or_n=-1), "n is -1"),
        (dict(seeds=[1]), "1 seeds for 2"),
        (dict(noise_or_n=given[:, :, 1:]), "(3, 1, 3, 4)"),
        (dict(noise_or_n=given, y=[1, 2]), "3 images"),
    ]:
        refused(lambda: list(ddim_steps(**{"denoiser": PICTURES, "noise_or_n": 2, "steps": 3, **bad})), ValueError,
                words)
    for bad, words in [
        (dict(steps=0), "steps is 0"),
        (dict(x0=given[:, :, 1:]), "(3, 1, 3, 4)"),
        (dict(x0=given.long()), "int64"),
        (dict(y=[1, 2]), "3 images"),
        (dict(spacing="odd"), "'odd'"),
    ]:
        refused(lambda: ddim_invert(**{"denoiser": PICTURES, "x0": given, "steps": 3, "progress": False, **bad}),
                ValueError, words)
    refused(lambda: ddim_sample(Breaks(math.nan), 1, steps=4, progress=False), FloatingPointError, "at t = 499")
    refused(lambda: slerp(given, given[:1], 0.5), ValueError,
            "b has shape (1, 1, 4, 4), expected that of a, (3, 1, 4, 4)")


def test_guidance():
    for bad, words in [
        (dict(scale=-1), "scale is -1"),
        (dict(scale=math.nan), "scale is nan"),
        (dict(scale=math.inf), "scale is inf"),
        (dict(scale=2, rescale=1.1), "rescale is 1.1"),
        (dict(scale=2, rescale=-0.1), "rescale is -0.1"),
    ]:
        refused(lambda: with_guidance(POINTS, **bad), ValueError, words)
    guided = with_guidance(POINTS, 2)
    refused(lambda: with_guidance(guided, 2), ValueError, "guided already, with scale 2")
    refused(lambda: guided(torch.zeros(2, 2), 10), ValueError, "y is None, expected labels")
    draw = lambda denoiser, n, **how: ddim_sample(denoiser, n, steps=2, progress=False, **how)
    refused(lambda: draw(guided, 2), ValueError, "y is None, expected labels")
    refused(lambda: draw(guided, 2, y=[1, 2, 3]), ValueError, "the 2 images")
    refused(lambda: draw(with_guidance(load_pretrained("digits"), 2), 1, y=10), ValueError, "expected labels in 0..9")
    for config, words in [
        (dict(num_classes=None, null_label=True), "does not know labels"),
        (dict(num_classes=10, null_label=False), "does not know 'no label'"),
        (dict(sample_size=28), "does not know labels"),  # a network of another library
    ]:
        denoiser = Denoiser(SimpleNamespace(config=SimpleNamespace(**config)), SCHEDULE, shape=(1, 8, 8))
        refused(lambda: with_guidance(denoiser, 2), ValueError, words)


def test_solvers():
    for steps_of, sample in ((heun_steps, heun_sample), (plms_steps, plms_sample), (dpmpp_steps, dpmpp_sample)):
        for bad, words in [
            (dict(steps=0), "steps is 0"),
            (dict(steps=1001), "steps is 1001"),
            (dict(spacing="odd"), "spacing is 'odd', expected one of"),
            (dict(noise_or_n=0), "n is 0"),
            (dict(steps=0, spacing="trailing"), "steps is 0"),
            (dict(noise_or_n=torch.zeros(2, 3)), "(2, 3)"),
            (dict(y=[1, 2, 3]), "2 images"),
            (dict(seeds=[1]), "1 seeds for 2 images"),
            (dict(seed=1, generator=torch.Generator()), "at most one"),
        ]:
            refused(lambda: list(steps_of(**{"denoiser": POINTS, "noise_or_n": 2, "steps": 3, **bad})), ValueError,
                    words)
        refused(lambda: sample(Breaks(math.nan), 1, steps=10, spacing="trailing", progress=False), FloatingPointError,
                "at t = 499")


def test_conventions():
    for bad, words in [
        (dict(alpha_bar=1.2), "alpha_bar is 1.2, expected 0 to 1"),
        (dict(edm_sigma=-1), "edm_sigma is -1, expected 0 to inf"),
        (dict(flow_time=[0.5, 980]), "flow_time is 980"),
        (dict(log_snr=math.nan), "log_snr is nan"),
        (dict(angle=45), "angle is 45, expected 0 to 1.5708"),
        (dict(sigma=1), "level is 'sigma'"),
        ({}, "given as nothing"),
        (dict(snr=1, gamma=0), "('snr', 'gamma')"),
    ]:
        refused(lambda: convert_level("alpha_bar", **bad), ValueError, words)
    refused(lambda: convert_level("alpha", snr=1), ValueError, "level is 'alpha', expected one of ('alpha_bar'")

    x = torch.randn(7, 2, 3)
    for call, kind, words in [
        (lambda: convert_state(x, "vp", "edm", snr=1.0), ValueError, "state is 'edm', expected one of ('vp'"),
        (lambda: convert_state(x.long(), "vp", "ve", snr=1.0), TypeError, "x is torch.int64"),
        (lambda: convert_state(x, "vp", "ve", snr=[1.0, 2.0]), ValueError,
         "level has shape (2,), expected () or (7,)"),
        (lambda: convert_state(x, "vp", "ve"), ValueError, "given as nothing"),
        (lambda: convert_output(x, x, "noise", "x0", snr=1.0), ValueError,
         "answer is 'noise', expected one of ('x0'"),
        (lambda: convert_output(x, x, "eps", "velocity", snr=1.0), ValueError, "answer is 'velocity'"),
        (lambda: convert_output(x, x, "eps", "x0", state="edm", snr=1.0), ValueError, "state is 'edm'"),
        (lambda: convert_output(x[:1], x, "eps", "x0", snr=1.0), ValueError, "expected that of x, (7, 2, 3)"),
        (lambda: convert_output(x.long(), x, "eps", "x0", snr=1.0), TypeError, "output is torch.int64"),
    ]:
        refused(call, kind, words)

    pure = make_schedule("linear", 50, zero_terminal_snr=True)  # between the last two: no straight line
    refused(lambda: level_at(pure, 1e9), ValueError, "sigma is 1e+09")
    for bad, words in [(math.inf, "sigma is inf"), (0.002, "sigma is 0.002, expected 0 or 0.0100005 to"),
                       (1000.0, "sigma is 1000"), (-1.0, "sigma is -1"), (math.nan, "sigma is nan")]:
        refused(lambda: level_at(SCHEDULE, [1.0, bad]), ValueError, words)
    for bad, words in [(1000, "t is 1000, expected -1"), (-0.5, "t is -0.5"), (-2, "t is -2"), (math.nan, "t is nan")]:
        refused(lambda: sigma_at(SCHEDULE, bad), ValueError, words)
    karras = (80 ** (1 / 7) + torch.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for schedule, known in ((SCHEDULE, 16), (make_schedule("cosine"), 17)):  # exercise 3: the next one is too low
        refused(lambda: level_at(schedule, karras[known]), ValueError, "sigma is")


def test_fitting_into_memory():
    def stingy(config):
        if config.batch_size // config.accumulate > 8:
            raise torch.OutOfMemoryError("pretended")

    config = TrainConfig(batch_size=9, compile=False, device="cpu")
    refused(lambda: make_it_fit(config, stingy), ValueError,
            "a part of 9 images does not fit and cannot be halved; expected a smaller network or batch")
    refused(lambda: make_it_fit(config, lambda config: 1 / 0), ZeroDivisionError, "division")  # other mistakes stay


def untouched(folder, name, content, words, write):
    "Put a file into `folder`, let `write` refuse the folder, and see that everything in it is still there."
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    old = files_below(folder)
    refused(lambda: write(small_denoiser(), folder), ValueError, words)
    assert files_below(folder) == old


def pickle_of(folder, size):
    "A pickle of about `size` bytes that makes `folder` where it is loaded, which is tried out here."
    content = pickle.dumps([MakesFolder(folder), bytes(size)])
    pickle.loads(content)
    folder.rmdir()
    return content


def test_model_folder():
    "What a config.json cannot say."
    for entry, value, words in [
            ("base_channels", "64", "base_channels is '64', expected a whole number from 1 to 1,000,000"),
            ("heads", 1.0, "heads is 1.0"), ("heads", True, "heads is True"), ("groups", 3, "groups = 3"),
            ("num_res_blocks", 10**9, "num_res_blocks is 1000000000, expected a whole number from 1 to 100"),
            ("dropout", None, "dropout is None, expected float"), ("dropout", "0.1", "dropout is '0.1'"),
            ("channel_mults", 2, "channel_mults is 2, expected a list"),
            ("channel_mults", [1, 2.5], "channel_mults is 2.5"), ("null_label", 1, "null_label is 1, expected bool"),
            ("num_classes", "3", "num_classes is '3'"), ("depth", 3, "config.json has a missing or unexpected entry"),
            ("depth", 3, "'depth'"), ("image_size", 7, "image_size is 7")]:
        refused(lambda: build(description(architecture={entry: value})), ValueError, words)
    for entry, value, words in [
            ("format", "ddpm_course model, version 99", "format is 'ddpm_course model, version 99', expected"),
            ("format", None, "format is None"), ("architecture", [1], "missing or unexpected"),
            ("shape", [1, 8], "shape is (1, 8)"), ("shape", [3, 8, 8], "expected (1, height, width)"),
            ("shape", [1, 8, 0], "shape is 0"), ("clip", [1, -1], "clip is [1, -1]"),
            ("clip", [0, float("nan")], "clip is [0, nan]"), ("clip", "ab", "missing or unexpected"),
            ("clip", [0, 10**400], "missing or unexpected"), ("prediction", "score", "prediction is 'score'"),
            ("schedule", 5, "missing or unexpected"), ("schedule", {"name": "magic"}, "schedule is 'magic'"),
            ("schedule", {"betas": [0.1, "x"]}, "missing or unexpected"),
            ("schedule", {"betas": [0.1, float("nan")]}, "betas[1] is nan")] + [
            ("schedule", {"num_timesteps": T}, f"num_timesteps is {T!r}, expected a whole number from 1 to 100,000")
            for T in (0, 10**15, True, 100.0, "100")]:
        refused(lambda: build(description(**{entry: value})), ValueError, words)
    for entry in ("architecture", "schedule", "prediction", "shape", "clip"):
        plain = {k: v for k, v in description().items() if k != entry}
        refused(lambda: build(plain), ValueError, f"missing or unexpected entry: '{entry}'")
    stranger = Denoiser(torch.nn.Conv2d(1, 1, 1), make_schedule("cosine"), "v", shape=(1, 8, 8))
    refused(lambda: describe(stranger), ValueError, "the network is Conv2d in a Denoiser, expected the UNet")
    refused(lambda: describe(lambda x_t, t: x_t), ValueError, "the network is NoneType in a function")


def test_model_folder_writes_over_nothing_else(tmp_path):
    save_pretrained(small_denoiser(), tmp_path / "clone")
    for name, file, content, words in [
            ("thesis", "chapter1.tex", b"three years of work", "holds something else"),
            ("newer", "config.json", b'{"format": "ddpm_course model, version 2"}', "holds something else"),
            ("broken", "config.json", b'{"format": ', "not valid JSON"),
            ("clone", ".git/HEAD", b"ref: main", "holds '.git/HEAD', which is no part of the model")]:
        untouched(tmp_path / name, file, content, words, save_pretrained)
    file = tmp_path / "thesis" / "chapter1.tex"
    refused(lambda: save_pretrained(small_denoiser(), file), ValueError, "is a file, expected a folder")
    assert file.read_bytes() == b"three years of work"


def test_model_folder_saves_only_what_can_be_loaded(tmp_path):
    for value, options in ((torch.nan, {}), (70_000.0, {"half": True})):  # the second is more than float16 can say
        denoiser = small_denoiser()
        denoiser.model.conv_out.bias.data[0] = value
        refused(lambda: save_pretrained(denoiser, tmp_path / "new", **options), ValueError,
                "'conv_out.bias' holds NaN or infinite")
    assert not any(tmp_path.iterdir())


def test_model_folder_that_is_damaged(tmp_path):
    "The fingerprint is the old one."
    save_pretrained(small_denoiser(), tmp_path, half=True)
    whole = files_below(tmp_path)
    weights = whole["model.safetensors"]
    for name, content, words in [
            ("model.safetensors", weights[:-1], "SHA-256"), ("model.safetensors", weights + b"x", "SHA-256"),
            ("model.safetensors", weights[:500] + bytes([weights[500] ^ 1]) + weights[501:], "SHA-256"),
            ("model.safetensors", None, "is missing"), ("model.safetensors", b"", "has 0 bytes, expected"),
            ("model.safetensors", weights[:1000], "has 1,000 bytes, expected"),
            ("model.safetensors", weights + bytes(10**6), "numbers of the network"),
            ("config.json", b'{"format": ', "not valid JSON"), ("config.json", b"[]", "holds a list, expected a JSON"),
            ("config.json", b"{}", "format is None"), ("config.json", None, "expected a model folder")]:
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
        refused(lambda: load_pretrained(tmp_path), ValueError, words)
        (tmp_path / name).write_bytes(whole[name])
    assert load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").replace(tmp_path / "pytorch_model.bin")
    refused(lambda: load_pretrained(tmp_path), ValueError, "'pytorch_model.bin' is a pickle, which may run code")
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).unlink()
    refused(lambda: load_pretrained(tmp_path), ValueError, f"model is {str(tmp_path)!r}, expected a model folder")
    refused(lambda: load_pretrained("no-such-model"), ValueError, "model is 'no-such-model', expected a model folder")


def test_model_folder_that_is_forged(tmp_path):
    "Whoever changes a file on purpose writes the fingerprint to match; the other checks remain."
    state = small_denoiser().model.state_dict()
    bias = "conv_in.bias"

    def forged(content=None, **entries):
        content = tensors_to_bytes(state) if content is None else content
        write_folder(tmp_path / "forged", {"model.safetensors": content}, description(**entries))
        return load_pretrained(tmp_path / "forged")

    assert same_model(forged(), small_denoiser())  # what is right goes through
    for tensors, words in [({**state, bias: torch.zeros(9)}, f"{bias!r} has shape (9,), expected (8,)"),
                           ({k: v for k, v in state.items() if k != bias}, f"lacks 1 tensors, the first: {bias!r}"),
                           ({**state, "extra": torch.zeros(1)}, "has 1 tensors too many, the first: 'extra'"),
                           ({**state, bias: torch.zeros(8, dtype=torch.int8)}, f"{bias!r} is torch.int8"),
                           ({**state, bias: torch.full((8,), torch.nan)}, f"{bias!r} holds NaN")]:
        refused(lambda: forged(tensors_to_bytes(tensors)), ValueError, words)
    for entries, words in [({"base_channels": 16}, "has shape"), ({"base_channels": 1_000_000}, "bytes, expected"),
                           ({"base_channels": 1_000_000, "channel_mults": [1, 1_000_000]}, "no network can be built"),
                           ({"groups": 3}, "groups = 3")]:
        refused(lambda: forged(architecture=entries), ValueError, words)
    made = tmp_path / "made by a pickle"
    evil = pickle_of(made, size=2 * sum(w.numel() for w in state.values()))
    refused(lambda: forged(evil), ValueError, "not a valid safetensors file")
    assert not made.exists()


def test_hub_without_an_answer(monkeypatch):
    for answer, words in [(OSError("404"), "'somebody/tiny' is no folder here, and the hub does not give it: 404"),
                          (None, "for an id on the hub, pip install huggingface_hub")]:
        stand_in_for_the_hub(monkeypatch, answer)
        for load in (load_pretrained, from_diffusers):
            refused(lambda: load("somebody/tiny"), ValueError, words)


def on_meta(**options):
    "A denoiser without numbers, for questions about its configuration."
    small = {"image_size": 16, "image_channels": 1, "base_channels": 8, "channel_mults": (1, 2), "num_res_blocks": 1,
             "attention_resolutions": (8,), "groups": 4}
    with torch.device("meta"):
        network = UNet(UNetConfig(**small | options))
    return Denoiser(network, make_schedule("cosine", 10), "v", shape=(1, 16, 16))


def test_diffusers():
    "What diffusers cannot say of ours, and what ours cannot be of diffusers', by its key."
    for name, value, more in [("patch_size", 2, {}), ("self_conditioning", True, {}), ("channel_mults", (2, 4), {}),
                              ("heads", 2, {"attention_resolutions": (16, 8)})]:
        refused(lambda: unet_to_diffusers(on_meta(**{name: value}, **more)), ValueError,
                f"{name} is {value}, which diffusers' UNet2DModel cannot express")
    lopsided = Denoiser(None, make_schedule("cosine"), "v", shape=(1, 8, 8), clip=(0, 1))
    refused(lambda: scheduler_to_diffusers(lopsided), ValueError, "clip is (0, 1), which diffusers cannot express")

    wrong = {
        "act_fn": "gelu", "add_attention": False, "attn_norm_num_groups": 16, "center_input_sample": True,
        "class_embed_type": "timestep", "downsample_padding": 1, "downsample_type": "resnet", "flip_sin_to_cos": True,
        "freq_shift": 0, "mid_block_scale_factor": 2, "mid_block_type": None, "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 256, "time_embedding_type": "fourier",
        "upsample_type": "resnet", "_class_name": "UNet2DConditionModel", "cross_attention_dim": 768,
        "attention_head_dim": 100, "sample_size": 30, "in_channels": "3", "out_channels": 6, "layers_per_block": 0,
        "norm_num_groups": None, "num_class_embeds": 0, "block_out_channels": [128, 192, 256, 256],
        "down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}
    assert set(UNET_DEFAULTS) - set(wrong) == {"dropout", "num_train_timesteps"}  # every other key can be wrong
    for key, value in wrong.items():
        refused(lambda: unet_from_diffusers(GOOGLE | {key: value}), ValueError, f"config.json: {key} is")
    for key in ("norm_eps", "downsample_padding", "flip_sin_to_cos", "freq_shift", "sample_size"):
        without = {k: v for k, v in GOOGLE.items() if k != key}  # left out, it means something else
        refused(lambda: unet_from_diffusers(without), ValueError, f"config.json: {key} is")
        unset = GOOGLE | {"_use_default_values": [key]}
        refused(lambda: unet_from_diffusers(unset), ValueError, f"config.json: {key} is")
    three_levels = {k: v for k, v in GOOGLE.items() if k != "attention_head_dim"} | {
        "block_out_channels": [64, 128, 256], "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]}
    refused(lambda: unet_from_diffusers(three_levels), ValueError, "attention_head_dim is 8")
    for change, words in [
            ({"attention_head_dim": 64, "block_out_channels": [128, 128, 256, 256]}, "attention_head_dim is 64"),
            ({"attention_head_dim": 8.0}, "config.json: attention_head_dim is 8.0"),
            ({"block_out_channels": 128}, "config.json holds a value of the wrong type"),
            ({"down_block_types": [[]] * 4}, "config.json holds a value of the wrong type"),
            ({"_use_default_values": 7}, "config.json holds a value of the wrong type"),
            ({"up_block_types": ["UpBlock2D"]}, "up_block_types is ['UpBlock2D']"),
            ({"sample_size": [32]}, "sample_size is [32]"), ({"dropout": "0.1"}, "dropout is '0.1', expected float")]:
        refused(lambda: unet_from_diffusers(GOOGLE | change), ValueError, words)

    for key, value in {"_class_name": "PNDMScheduler", "beta_schedule": "sigmoid", "prediction_type": "flow",
                       "thresholding": True, "variance_type": "learned_range", "future": 1, "clip_sample": "yes",
                       "num_train_timesteps": 10**12, "trained_betas": [0.1, 0.2], "clip_sample_range": -1}.items():
        refused(lambda: scheduler_from_diffusers(GOOGLE_SCHEDULER | {key: value}), ValueError,
                f"scheduler_config.json: {key} is {value!r}, expected")
    for key, value, words in [("beta_start", "x", "holds a value of the wrong type"),
                              ("clip_sample_range", None, "holds a value of the wrong type"),
                              ("beta_schedule", [], "holds a value of the wrong type"),
                              ("trained_betas", ["x"], "'str'")]:
        refused(lambda: scheduler_from_diffusers(GOOGLE_SCHEDULER | {key: value}), ValueError, words)


def test_diffusers_writes_over_nothing_else(tmp_path):
    to_diffusers(small_denoiser(), tmp_path / "mine")
    for name, file, content, words in [
            ("thesis", "chapter1.tex", b"three years of work", "holds something else"),
            ("mine", "unet/notes.txt", b"important", "holds 'unet/notes.txt', which is no part of the model"),
            ("somebody's", "model_index.json", b'{"_class_name": "DDPMPipeline"}', "holds something else")]:
        untouched(tmp_path / name, file, content, words, to_diffusers)
    diverged = small_denoiser()
    diverged.model.conv_out.bias.data[0] = torch.nan
    refused(lambda: to_diffusers(diverged, tmp_path / "new"), ValueError, "'conv_out.bias' holds NaN")
    refused(lambda: to_diffusers(load_pretrained("digits"), tmp_path / "new"), ValueError,
            "patch_size is 2, which diffusers' UNet2DModel cannot express")
    assert not (tmp_path / "new").exists()


def test_diffusers_folder_that_is_wrong(tmp_path):
    "Each with its file, and with the key or the tensor."
    folder, made = tmp_path / "abroad", tmp_path / "made by a pickle"
    to_diffusers(small_denoiser(), folder)
    whole, tensors = files_below(folder), load_file(folder / IN_DIFFUSERS["weights"])
    good, size = whole[IN_DIFFUSERS["weights"]], sum(w.numel() for w in tensors.values())
    query = "down_blocks.1.attentions.0.to_q.weight"
    old_query = query.replace("to_q", "query")
    for file, content, words in [
            ("weights", pickle_of(made, 2 * size), "not a valid safetensors file"),
            ("weights", good[:-1], "not a valid safetensors file"),
            ("weights", good[:900], "has 900 bytes"),
            ("weights", good + bytes(10**6), "bytes, expected"),
            ("weights", None, "is missing"),
            ("weights", {query: torch.full((16, 16), torch.inf)}, f"{query!r} holds NaN or infinite"),
            ("weights", {query: torch.zeros(16, 15)}, f"{query!r} has shape (16, 15), expected (16, 16)"),
            ("weights", {query: torch.ones(16, 16).int()}, f"{query!r} is torch.int32"),
            ("weights", {query: None}, f"lacks 1 tensors, the first: {query!r}"),
            ("weights", {"x": torch.zeros(1)}, "has 1 tensors too many, the first: 'x'"),
            ("weights", {old_query: tensors[query].clone()}, "under its old and its new name"),
            ("unet", {"norm_eps": 1e-5}, "norm_eps is 1e-05"),
            ("unet", {"block_out_channels": [8, 24]}, "has shape"),
            ("unet", {"block_out_channels": [8, 800_000]}, "bytes, expected"),
            ("unet", b"{", "not valid JSON"),
            ("unet", None, "does not exist"),
            ("scheduler", {"trained_betas": [0.1]}, "trained_betas is [0.1], expected num_train_timesteps = 100"),
            ("scheduler", None, "does not exist"),
            ("index", {"_class_name": "StableDiffusionPipeline"}, "_class_name is 'StableDiffusionPipeline'")]:
        path = folder / IN_DIFFUSERS[file]
        if isinstance(content, dict) and file == "weights":
            content = tensors_to_bytes({name: w for name, w in (tensors | content).items() if w is not None})
        elif isinstance(content, dict):
            content = json.dumps(json.loads(path.read_text()) | content).encode()
        path.unlink() if content is None else path.write_bytes(content)
        refused(lambda: from_diffusers(folder), ValueError, words)
        refused(lambda: from_diffusers(folder), ValueError, folder.name)
        path.write_bytes(whole[IN_DIFFUSERS[file]])
    assert same_model(from_diffusers(folder), small_denoiser())
    (folder / IN_DIFFUSERS["weights"]).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle_of(made, 2 * size))
    refused(lambda: from_diffusers(folder), ValueError, "'diffusion_pytorch_model.bin' is a pickle, which may run code")
    assert not made.exists()
    refused(lambda: from_diffusers(tmp_path / "nowhere"), ValueError, "nowhere', expected the folder of a pipeline")


def test_config():
    for name in ("image_size", "patch_size", "steps", "batch_size", "accumulate", "num_timesteps", "log_every",
                 "save_every", "samples", "sample_steps"):
        for value in (0, -1):
            refused(lambda: TrainConfig(**{name: value}), ValueError,
                    f"{name} is {value}, expected a whole number of 1 or more")
    for name in ("warmup", "validation", "previews", "workers"):
        refused(lambda: TrainConfig(**{name: -1}), ValueError, f"{name} is -1, expected a whole number of 0 or more")
    refused(lambda: TrainConfig(memory=-1), ValueError, "memory is -1, expected 0 or more")
    refused(lambda: TrainConfig(keep=1), ValueError, "keep is 1, expected a whole number of 2 or more")
    for name in ("lr", "grad_clip"):
        for value in (0.0, -1.0, math.nan):
            refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is {value}, expected more than 0")
    for name, words, above in (("decay", "0 to 1", 1.1), ("label_dropout", "0 to 1", 2), ("max_skipped", "0 to 1", 1.5),
                               ("background", "a whole number from 0 to 255", 256),
                               ("ema", "0 up to but not including 1", 1.0), ("guidance", "0 up to but", math.inf),
                               ("holdout", "0 up to but not including 1", 1.0)):
        for value in (-0.1, above, math.nan):
            refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is {value}, expected {words}")
    for seed in (-1, 2**63):
        refused(lambda: TrainConfig(seed=seed), ValueError, f"seed is {seed}, expected a whole number from 0 to 9,2")
    refused(lambda: TrainConfig(weighting="x"), ValueError, "weighting is 'x', expected one of")
    refused(lambda: TrainConfig(precision="int8"), ValueError,
            "precision is 'int8', expected one of ('float32', 'bf16', 'fp16')")
    for name, value, words in (("flip", "false", "one of (False, True)"), ("conditional", "no", "one of (False, True)"),
                               ("lr", True, "a number, more than 0"), ("steps", "10", "a whole number of 1 or more"),
                               ("channel_mults", 2, "whole numbers such as (1, 2)"), ("out", 3, "text"),
                               ("channel_mults", "12", "whole numbers"), ("channel_mults", (1, 0.5), "a whole number")):
        refused(lambda: TrainConfig(**{name: value}), ValueError, f"{name} is ")
        refused(lambda: TrainConfig(**{name: value}), ValueError, f", expected {words}")
    refused(lambda: TrainConfig(sample_steps=2000), ValueError,
            "sample_steps is 2000, expected at most num_timesteps = 1000")


def test_device(monkeypatch):
    for gpus, names, there in ((0, ("tpu", "cuda", "mps", "fast card"), "cpu"), (2, ("cuda:2", "mps"), "cuda, cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=gpus: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=gpus: n)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        for name in names:
            refused(lambda: pick_device(name), ValueError,
                    f"device is {name!r}, expected auto or one that this machine has: {there}")


def test_checkpoints(tmp_path):
    config = dataclasses.replace(TINY, out=str(tmp_path / "run"))
    state = new_state(config)
    refused(lambda: save_checkpoint(state, config), ValueError, "no update has been made yet, expected one or more")
    for _ in training_steps(state, load_digits(), config):
        save_checkpoint(state, config)
    faster = dataclasses.replace(config, lr=0.5, seed=3)
    for words in ("lr (was 0.001, now 0.5)", "seed (was 0, now 3)", "expected the same, or another run folder",
                  f"step-00000003 in {config.out!r} has another configuration"):
        refused(lambda: resume_from(new_state(faster), faster), ValueError, words)
    with mock.patch("ddpm_course.formats.model_folder.write_folder", side_effect=OSError(28, "disk full", "there")):
        refused(lambda: save_checkpoint(state, config), OSError,
                "step-00000003 could not be written (disk full); kept are: step-00000003, step-00000002: 'there'")
    for folder in checkpoints(config.out):
        (folder / "training.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each is passed over
        refused(lambda: resume_from(state, config), ValueError,
                f"none of the 2 checkpoints in {config.out!r} can be read, expected a whole one")


def test_training():
    digits, state = load_digits(), new_state(TINY)
    spoiled = digits.batch(torch.arange(8))[0].fill_(math.nan), None
    state.step = 1
    for words in ("the loss or its gradient is not finite at step 1, with learning rate 0.001",
                  "the weights were not changed by it, and no checkpoint was written since: try a lower lr"):
        refused(lambda: train_step(state, spoiled, TINY), FloatingPointError, words)


def test_run(tmp_path):
    whole = dataclasses.replace(TINY, out=str(tmp_path / "whole"))
    train(whole, progress=False)

    def begin(out="x", **change):
        return train(dataclasses.replace(TINY, out=str(tmp_path / out), **change), progress=False)
    for kind, words, change in (
            (ValueError, f"out is {whole.out!r}, which exists already; expected a new folder, or --resume to go on",
             {"out": "whole"}),
            (ValueError, "none', expected the folder of a run to resume; there is none",
             {"out": "none", "resume": True}),
            (ValueError, "base_channels (was 8, now 16)",
             {"out": "whole", "resume": True, "lr": 5e-4, "base_channels": 16}),
            (ValueError, "lr (was 0.001, now 0.0005)",
             {"out": "whole", "resume": True, "lr": 5e-4, "base_channels": 16}),
            (ValueError, "image_size is 30", {"image_size": 30, "patch_size": 4}),
            (ValueError, "'nowhere'", {"data": "nowhere"}),
            (ValueError, "batch_size is 8, expected a multiple of 1 (processes) times 3 (accumulate)",
             {"accumulate": 3})):
        refused(lambda: begin(**change), kind, words)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]  # nothing half-written
    described = read_json(tmp_path / "whole" / DATA)
    for change, words in (({"fingerprint": "other"}, "(10000 then, 10000 now)"),
                          ({"in_memory": False, "images": 9}, "(9 then, 10000 now)"),
                          ({"in_memory": False, "held_out": 9}, "(10000 then, 10000 now)")):
        write_json(tmp_path / "whole" / DATA, {**described, **change})
        refused(lambda: begin("whole", resume=True), ValueError,
                f"the images in 'digits' have changed since the run was begun {words}; expected the same, or another")


def test_storage(tmp_path):
    good, bad = tmp_path / "config.json", tmp_path / "bad.json"
    write_json(good, {"steps": 4000})
    refused(lambda: read_json(tmp_path / "nothing.json"), ValueError, "nothing.json' does not exist")
    refused(lambda: read_json(good, max_bytes=10), ValueError, "config.json' has 20 bytes, expected at most 10")
    for content, words in [
        (b'{"steps": 40', "bad.json' is not valid JSON"),
        (b"\xff\xfe{}", "bad.json' is not valid JSON"),
        (b"", "bad.json' is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bad.json' is not valid JSON"),  # a number that Python refuses to read
        (b'{"a": ' + b"[" * 100_000, "bad.json' is not valid JSON"),  # deeper than any parser can follow
        (b"[1, 2]", "bad.json' holds a list, expected a JSON object"),
        (b"3", "bad.json' holds a int, expected a JSON object"),
    ]:
        bad.write_bytes(content)
        refused(lambda: read_json(bad), ValueError, words)

    class Surprise:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made by a pickle"),)

    poison = pickle.dumps({"weight": Surprise()})
    content = tensors_to_bytes({"weight": torch.ones(4, 3)})
    for bad in (poison, b"", b"hello", content[:-1], content[:len(content) // 2], content + b"x"):
        refused(lambda: tensors_from_bytes(bad, "'model.pt'"), ValueError,
                "'model.pt' is not a valid safetensors file")
    assert not (tmp_path / "made by a pickle").exists()
    pickle.loads(poison)
    assert (tmp_path / "made by a pickle").exists()  # so it would have been seen

    expected = torch.nn.Linear(3, 2).state_dict()
    fits, nan, inf = expected, float("nan"), float("inf")
    for found, words in [
        ({"weight": fits["weight"]}, "weights lacks 1 tensors, the first: 'bias'"),
        ({}, "weights lacks 2 tensors, the first: 'bias'"),
        (fits | {"scale": torch.ones(1), "extra": torch.ones(1)}, "weights has 2 tensors too many, the first: 'extra'"),
        (fits | {"weight": torch.ones(3, 2)}, "weights: 'weight' has shape (3, 2), expected (2, 3)"),
        (fits | {"bias": torch.zeros(2, dtype=torch.int8)}, "weights: 'bias' is torch.int8, expected floating point"),
        (fits | {"bias": torch.zeros(2, dtype=torch.complex64)}, "'bias' is torch.complex64, expected floating point"),
        (fits | {"bias": torch.tensor([nan, 0]).to(torch.float8_e4m3fn)}, "'bias' holds NaN or infinite values"),
        (fits | {"bias": torch.tensor([0.0, nan])}, "weights: 'bias' holds NaN or infinite values"),
        (fits | {"bias": torch.tensor([-inf, 0.0])}, "weights: 'bias' holds NaN or infinite values"),
    ]:
        refused(lambda: check_tensors(found, expected, "weights"), ValueError, words)
    refused(lambda: check_tensors({"steps": torch.tensor(7.0)}, {"steps": torch.tensor(0)}, "state"), ValueError,
            "state: 'steps' is torch.float32, expected whole numbers")

    model, million = tmp_path / "model", bytes(1_000_000)
    write_folder(model, {"weights.bin": million}, {})
    flipped = bytearray(million)
    flipped[123_456] ^= 1  # one bit of eight million
    for content in (flipped, million[:-1]):
        (model / "weights.bin").write_bytes(content)
        refused(lambda: read_verified(model, "weights.bin"), ValueError, "weights.bin' is damaged or was changed")
    (model / "weights.bin").write_bytes(million)
    assert read_verified(model, "weights.bin") == million  # repaired
    (model / "added.bin").write_bytes(b"who put this here?")
    (model / "weights.bin").unlink()
    for name in ("added.bin", "weights.bin"):
        refused(lambda: read_verified(model, name), ValueError, f"{name}' is missing, or config.json does not list it")
    write_json(model / "config.json", {"files": ["added.bin"]})
    refused(lambda: read_verified(model, "added.bin"), ValueError, "is missing, or config.json does not list it")
    refused(lambda: read_verified(tmp_path / "none", "weights.bin"), ValueError, "config.json' does not exist")


def test_viz(tmp_path):
    for shape in ((1, 28, 28), (28, 1, 28), (2, 4, 8, 8), (2, 2, 8, 8)):
        refused(lambda: to_pixels(torch.zeros(shape)), ValueError,
                f"images have shape {shape}, expected (B, 1, H, W) or (B, 3, H, W)")
    refused(lambda: save_gif([], tmp_path / "none.gif"), ValueError, "frames is empty, expected one batch of images")
    assert not list(tmp_path.iterdir())


def test_ledger(tmp_path):
    draws = 0.5 + 2 * torch.randn(20_000, 30, generator=torch.Generator().manual_seed(0))
    a, b = sympy.symbols("a b")
    for check, words in [
        (lambda eq: None, "(0.0) a claim: nothing was compared"),
        (lambda eq: eq.close(torch.ones(0), 1.0, atol=1), "nothing was compared"),
        (lambda eq: eq.close(torch.ones(0), torch.ones(0), atol=1), "nothing was compared"),
        (lambda eq: eq.mean(draws, 0.6), "standard errors, allowed 4.65"),  # a standard error is 0.014
        (lambda eq: eq.variance(draws, 2.0), "expected 2;"),  # the standard deviation is not the variance
        (lambda eq: eq.mean(draws[0], float("nan")), "expected nan"),
        (lambda eq: eq.close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), rtol=1e-3),
         "(0.0) a claim: number 1 of 2 is 2, expected 2.1; off by 0.0476 relative, allowed 0.001"),
        (lambda eq: eq.close(1.5, 1.0, atol=0.49), "off by 0.5 absolute, allowed 0.49"),
        (lambda eq: eq.close(float("nan"), 1.0, atol=1), "number 0 of 1 is nan, expected 1; off by inf absolute"),
        (lambda eq: eq.close(1e-9, 0.0, rtol=1e-3), "relative"),  # nothing is close to 0 in relative terms
        (lambda eq: eq.close(torch.ones(3), torch.ones(1, 3), atol=1), "shape (3,) is compared with (1, 3)"),
        (lambda eq: eq.above(1.0, 1.0), "off by 1 violations"),
        (lambda eq: eq.above(1.1, 1.0, standard_error=0.1), "off by 1 violations"),  # chance explains one
        (lambda eq: eq.above([2.0, float("nan")], 1.0), "number 1 of 2 is nan, expected 1"),
        (lambda eq: eq.symbolic((a + b) ** 2, a**2 + b**2), "the two sides differ by 2*a*b"),
    ]:
        def attempt():
            with equation("0.0", "a claim") as eq:
                check(eq)
        refused(attempt, AssertionError, words)
    with equation("0.0", "a claim", folder=tmp_path) as eq:
        refused(lambda: eq.close(1.0, 1.0), ValueError, "rtol is None and atol is None, expected exactly one of them")
        refused(lambda: eq.close(1.0, 1.0, rtol=0, atol=0), ValueError, "rtol is 0 and atol is 0, expected exactly one")
        eq.close(1.0, 1.0, atol=0)
    refused(lambda: read_ledger(tmp_path / "no_such_ledger.json"), FileNotFoundError, "no_such_ledger.json")


def test_cli(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "taken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    for name, entry in (("wrong", {"learning_rate": 1}), ("type", {"steps": "many"}), ("bool", {"lr": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))
    before = sorted(tmp_path.rglob("*"))
    for line, words in [  # each is told in one line, ends with exit code 2, and writes nothing
        ("train --out run --data imagenet", "data is 'imagenet'"),
        ("train --out run --data empty", "no images"),
        ("train --out run --device tpu", "device is 'tpu'"),
        ("train --out run --steps 0", "steps is 0"),
        ("train --out run --steps many", "--steps"),
        ("train --out run --batch-size -4", "batch_size is -4"),
        ("train --out run --image-size 30 --patch-size 4", "image_size is 30, expected a multiple of 8"),
        ("train --out run --schedule straight", "'straight'"),
        ("train --out run --stepz 3", "--stepz"),
        ("train --out taken", "exists already"),
        ("train --out run --resume", "there is none"),
        ("train --config none.json", "'none.json' does not exist"),
        ("train --config", "--config is given without a file, expected the path of a JSON file"),
        ("train --out run --config wrong.json", "'wrong.json' has the entry 'learning_rate', expected options"),
        ("train --out run --config=type.json", "'type.json': steps is 'many', expected a whole number of 1 or more"),
        ("train --out run --config bool.json", "'bool.json': lr is True, expected a number, more than 0"),
        ("info run", "model is 'run', expected a model folder, a run folder"),
        ("sample run", "expected a model folder"),
        ("sample digits --n 0", "n is 0"),
        ("sample digits --steps 1001", "steps is 1001"),
        ("sample digits --y 10", "y is 10, expected 0 to 9"),
        ("sample digits --out nowhere/grid.png", "out is 'nowhere/grid.png', expected a file in a folder that exists"),
    ]:
        code, told = main(line.split()), capsys.readouterr()
        assert code == 2 and words in told.err and told.err.count("\n") == 1 and not told.out, (line, code, told)
        assert told.err.startswith(f"ddpm_course {line.split()[0]}: ") and "Traceback" not in told.err, told.err
    assert sorted(tmp_path.rglob("*")) == before
