"""The translator of conventions at the ends of its ranges: clean, pure noise, dtypes, shapes, one level a sample."""
import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_course.conventions import (LEVELS, OUTPUTS, STATES, convert_level, convert_output, convert_state, level_at,
                                     sigma_at)
from ddpm_course.schedules import make_schedule

LINEAR = make_schedule("linear")
SIGMA = torch.tensor([1e-3, 0.02, 0.3, 1, 4, 80, 1e4], dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(1)
X0 = torch.rand(7, 2, 3, generator=GENERATOR, dtype=torch.float64) * 2 - 1
EPS = torch.randn(7, 2, 3, generator=GENERATOR, dtype=torch.float64)
VE = X0 + SIGMA[:, None, None] * EPS


def test_the_chapter_counts_its_names_right():
    assert len(LEVELS) == 11 and len(LEVELS) * 10 == 110  # levels, and conversions from one to another
    assert (len(STATES), len(OUTPUTS)) == (3, 7) and 3 * 7 * 6 == 126


@pytest.mark.parametrize("name, clean, pure", [
    ("alpha_bar", 1, 0), ("noise_variance", 0, 1), ("signal", 1, 0), ("noise_std", 0, 1), ("snr", math.inf, 0),
    ("log_snr", math.inf, -math.inf), ("gamma", -math.inf, math.inf), ("half_log_snr", math.inf, -math.inf),
    ("edm_sigma", 0, math.inf), ("angle", 0, math.pi / 2), ("flow_time", 0, 1)])
def test_both_ends_of_every_level(name, clean, pure):
    assert convert_level(name, alpha_bar=1).item() == clean and convert_level(name, alpha_bar=0).item() == pure
    assert (LEVELS[name].low, LEVELS[name].high) == (min(clean, pure), max(clean, pure))


def test_levels_keep_their_shape_and_become_float64():
    assert convert_level("alpha_bar", edm_sigma=2.0).item() == 0.2
    assert_close(convert_level("alpha_bar", signal=0.3).item(), 0.09)
    assert convert_level("alpha_bar", edm_sigma=torch.tensor([[2.0]])).shape == (1, 1)
    assert convert_level("gamma", log_snr=[[1.0, 2.0]]).tolist() == [[-1, -2]]
    assert convert_level("snr", snr=torch.tensor(2.0)).dtype == torch.float64


def test_a_python_number_is_not_rounded_to_float32():
    assert abs(convert_level("edm_sigma", noise_variance=1e-12).item() / 1e-6 - 1) < 1e-10


def test_states_at_both_ends():
    assert torch.equal(convert_state(EPS, "vp", "flow", flow_time=1.0), EPS)  # pure noise has a state on these two
    assert torch.equal(convert_state(X0.float(), "ve", "vp", edm_sigma=0), X0.float())  # the clean image is one on all


@pytest.mark.parametrize("dtype, result", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                           (torch.float64, torch.float64)])
def test_states_are_float32_or_better(dtype, result):
    assert convert_state(X0.to(dtype), "vp", "ve", snr=1.0).dtype == result


@pytest.mark.parametrize("source", OUTPUTS)
def test_answers_there_and_back_in_float32(source):
    x, eps = convert_state(VE, "ve", "vp", edm_sigma=SIGMA).float(), EPS.float()
    for target in OUTPUTS:
        there = convert_output(eps, x, source, target, edm_sigma=0.7)
        assert there.dtype == torch.float32
        assert_close(convert_output(there, x, target, source, edm_sigma=0.7), eps, rtol=1e-4, atol=1e-5)
    assert torch.equal(convert_output(EPS, VE, source, source, state="ve", edm_sigma=0.7), EPS)


def test_each_sample_may_have_its_own_level():
    batch = convert_output(EPS, VE, "eps", "edm_F", state="ve", edm_sigma=SIGMA)
    one_by_one = [convert_output(eps, x, "eps", "edm_F", state="ve", edm_sigma=sigma)
                  for eps, x, sigma in zip(EPS, VE, SIGMA)]
    assert_close(batch, torch.stack(one_by_one))


def test_from_pure_noise_v_and_F_tell_the_image_and_eps_does_not():
    assert_close(convert_output(EPS, EPS, "v", "x0", alpha_bar=0), -EPS)
    assert_close(convert_output(X0, EPS, "edm_F", "x0", sigma_data=0.25, alpha_bar=0), 0.25 * X0)
    assert not convert_output(EPS, EPS, "eps", "x0", alpha_bar=0).isfinite().any()


def test_levels_of_a_schedule_that_ends_in_pure_noise():
    pure = make_schedule("linear", 50, zero_terminal_snr=True)
    assert sigma_at(pure, 49) == math.inf and level_at(pure, math.inf) == 49
    assert level_at(pure, sigma_at(pure, 48)) == 48


def test_the_clean_image_is_level_minus_1():
    assert level_at(LINEAR, 0) == -1 and sigma_at(LINEAR, -1) == 0


def test_levels_and_sigmas_keep_their_shape():
    assert sigma_at(LINEAR, torch.tensor([-1, 0])).shape == (2,)
    assert level_at(LINEAR, 0).shape == () and level_at(LINEAR, [[1.0, 0.0]]).shape == (1, 2)


def test_every_level_is_found_by_its_sigma_in_float32():
    sigmas = (LINEAR.one_minus_alpha_bar(torch.arange(1000)) / LINEAR.alphas_cumprod).sqrt()
    assert sigmas.dtype == torch.float32 and (level_at(LINEAR, sigmas).round() == torch.arange(1000)).all()


def test_a_schedule_of_one_level():
    one = make_schedule("cosine", 1)
    assert level_at(one, sigma_at(one, 0)) == 0
