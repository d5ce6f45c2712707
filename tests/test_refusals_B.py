"""Bad input stops at once, with an error that names the value and what was expected: one function for each module."""
import ast
import dataclasses
import gc
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddpm_course.app.config import TrainConfig
from ddpm_course.conventions import convert_level, convert_output, convert_state, level_at, sigma_at
from ddpm_course.ddim import ddim_invert, ddim_sample, ddim_steps, slerp
from ddpm_course.ddpm import Sampling, as_labels, ddpm_sample, ddpm_steps, noise_source
from ddpm_course.embedding import timestep_embedding
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import Denoised, NoiseSchedule, linear_beta_schedule
from ddpm_course.guidance import with_guidance
from ddpm_course.hub import load_pretrained
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import make_schedule
from ddpm_course.solvers import dpmpp_sample, dpmpp_steps, heun_sample, heun_steps, plms_sample, plms_steps
from ddpm_course.unet import UNet, UNetConfig

SCHEDULE = NoiseSchedule(linear_beta_schedule())
PICTURES = IdealDenoiser(GaussianMixture([[0.5] * 16, [-0.5] * 16], 0.1), SCHEDULE, shape=(1, 4, 4))
POINTS = IdealDenoiser(GaussianMixture([[-1.0, -0.5], [1.0, 0.2]], 0.02), SCHEDULE)
LABELLED = UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_mults=(1, 2), num_res_blocks=1,
                      attention_resolutions=(4,), groups=2, dropout=0.0, num_classes=10)


def refused(call, kind, words):
    "`call` must raise `kind` with a message in which `words` occur."
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value), caught.value


def from_chapter(page, *names, **known):
    "Functions and classes that a chapter keeps to itself, by name; `known` are the names that they use."
    cells = json.loads(next(Path(__file__).parents[1].glob(f"nbs/{page}")).read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    wanted = [node for source in code for node in ast.parse(source).body if getattr(node, "name", None) in names]
    assert sorted(node.name for node in wanted) == sorted(names)
    exec(compile(ast.Module(wanted, []), page, "exec"), known)
    return [known[name] for name in names]


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
        (dict(null_label="no"), "null_label is 'no', expected True or False"),
        (dict(self_conditioning=1), "self_conditioning is 1, expected True or False"),
        (dict(image_size=30), "image_size is 30, expected a multiple of 8"),
        (dict(image_size=40, patch_size=2), "image_size is 40, expected a multiple of 16"),
        (dict(attention_resolutions=(16, 12)), "attention_resolutions has [12]"),
        (dict(attention_resolutions=(16, "8")), "attention_resolutions has ['8']"),
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
        (conditioned, (x, t, None, x[:2]), ValueError, "x0_prev has shape (2, 1, 8, 8), expected shape (3, 1, 8, 8)"),
        (strict, (x, t), ValueError, "y is None, expected labels 0..9"),
        (labelled, (x, t, zeros(3)), ValueError, "y is torch.float32 of shape (3,), expected int64 (3,)"),
        (labelled, (x, t, zeros(2, dtype=torch.int64)), ValueError, "of shape (2,), expected int64 (3,)"),
        (labelled, (x, t, torch.tensor([0, 5, 11])), ValueError, "y goes from 0 to 11, expected labels in 0..10"),
        (labelled, (x, t, torch.tensor([0, 5, -1])), ValueError, "y goes from -1 to 5"),
        (strict, (x, t, torch.tensor([0, 5, 10])), ValueError, "expected labels in 0..9"),
    ]:
        refused(lambda: model(*arguments), kind, words)


def test_the_naive_network_of_the_unet_chapter():
    "Its text says that a size which cannot be halved twice ends in a message about tensors."
    (Naive,) = from_chapter("*_unet.ipynb", "Naive", torch=torch, nn=nn, F=F)
    refused(lambda: Naive()(torch.zeros(1, 1, 14, 14), torch.tensor([5])), RuntimeError, "must match the size")


def test_objective():
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
    refused(lambda: slerp(given, given[:1], 0.5), ValueError, "expected one shape")


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


def test_fitting_into_memory_in_the_gpu_chapter():
    make_it_fit, *_ = from_chapter("*_train_on_gpu.ipynb", "make_it_fit", "in_more_parts", "free_memory", gc=gc,
                                   torch=torch, dataclasses=dataclasses, TrainConfig=TrainConfig)

    def stingy(config):
        if config.batch_size // config.accumulate > 8:
            raise torch.OutOfMemoryError("pretended")

    config = TrainConfig(batch_size=9, compile=False, device="cpu")
    refused(lambda: make_it_fit(config, stingy), ValueError,
            "a part of 9 images does not fit and cannot be halved; expected a smaller network or batch")
    refused(lambda: make_it_fit(config, lambda config: 1 / 0), ZeroDivisionError, "division")  # other mistakes stay
