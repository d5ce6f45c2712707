"""What holds for every schedule, and for the lists of levels that a sampler visits. Refusals: test_refusals.py."""
import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_course.forward import NoiseSchedule, denoised_from, linear_beta_schedule
from ddpm_course.schedules import (SCHEDULES, SPACINGS, _grid, _pairs, betas_from_alpha_bar, cosine_beta_schedule,
                                   exponential_beta_schedule, karras_pairs, make_schedule,
                                   rescale_zero_terminal_snr,
                                   sigmoid_beta_schedule, time_pairs)


def doubles(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def log_snr(schedule):
    return schedule.snr(torch.arange(schedule.num_timesteps)).log()


def levels(betas):
    return (1 - betas).cumprod(0)


# the curves

def test_the_ends_of_the_linear_schedule_grow_as_1000_over_T():
    assert_close(linear_beta_schedule(100)[[0, -1]], doubles(1e-3, 0.2))
    assert linear_beta_schedule(21)[-1] < 1  # 20 is refused


@pytest.mark.parametrize("T, raw", [(50, 0.60), (100, 0.36), (200, 0.13), (400, 0.017), (1000, 4.036e-5)])
def test_what_is_left_at_the_end_with_and_without_the_factor(T, raw):
    unscaled = levels(torch.linspace(1e-4, 0.02, T, dtype=torch.float64))[-1].item()
    assert unscaled == pytest.approx(raw, rel=0.03) and levels(linear_beta_schedule(T))[-1] < 5e-5
    assert abs(math.log(unscaled) + T * 0.01005) < 0.08  # the sum of the betas (5.6)


def test_the_grid_goes_from_0_to_1():
    assert _grid(4).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_curve_that_ends_at_0_is_clipped_in_its_last_beta_only():
    assert betas_from_alpha_bar(torch.tensor([1.0, 0.5, 0.0])).tolist() == [0.5, 0.999]
    assert betas_from_alpha_bar(torch.tensor([1.0, 0.5, 0.0]), max_beta=1).tolist() == [0.5, 1.0]
    for T in (1, 2, 10, 50, 1000, 4000):
        assert (cosine_beta_schedule(T) == 0.999).sum() == 1 == (sigmoid_beta_schedule(T) == 0.999).sum()
    assert_close(cosine_beta_schedule(1000)[-4:], doubles(7 / 16, 5 / 9, 3 / 4, 0.999), rtol=1e-4, atol=0)


def test_a_long_move_is_not_the_beta_of_its_last_step():
    betas = linear_beta_schedule(1000)
    long_moves = betas_from_alpha_bar(torch.cat([doubles(1), levels(betas)])[::100])
    assert long_moves[1] > 50 * betas[199]


def test_the_offset_of_the_cosine_makes_the_first_noise_about_one_grey_level():
    assert 0.7 / 127.5 < cosine_beta_schedule(1000)[0].sqrt() < 1 / 127.5
    assert cosine_beta_schedule(1000, s=0)[0].sqrt() < 0.3 / 127.5


def test_the_sigmoid_is_symmetric_a_line_at_large_tau_and_steep_at_small_tau():
    u, usual = torch.arange(1, 1000, dtype=torch.float64) / 1000, levels(sigmoid_beta_schedule(1000))[:-1]
    assert_close(usual + usual.flip(0), torch.ones(999, dtype=torch.float64), rtol=1e-9, atol=0)
    assert_close(levels(sigmoid_beta_schedule(1000, tau=100))[:-1], 1 - u, rtol=0, atol=1e-3)
    steep = levels(sigmoid_beta_schedule(1000, tau=0.3))
    assert steep[249] > usual[249] and steep[749] < usual[749]


def test_the_exponential_schedule_stops_short_of_noise():
    betas = exponential_beta_schedule(1000)
    assert abs(betas.sum() - 1000 * (0.02 - 1e-4) / math.log(200)) < 0.02 and 0.022 < levels(betas)[-1] < 0.024


# zero terminal SNR

@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
def test_rescaled_schedules_end_in_noise_and_rescaling_twice_changes_nothing(build):
    rescaled = rescale_zero_terminal_snr(build(100))
    assert levels(rescaled)[-1] == 0 and rescaled[-1] == 1 and (rescaled[:-1] < 1).all()
    assert rescaled[0] == pytest.approx(build(100)[0].item(), rel=1e-9)
    assert_close(rescale_zero_terminal_snr(rescaled), rescaled)


def test_a_single_step_becomes_pure_noise():
    assert rescale_zero_terminal_snr(torch.tensor([0.3])).tolist() == [1.0]


def test_pure_noise_says_nothing_about_the_image_unless_v_is_predicted():
    schedule = NoiseSchedule(rescale_zero_terminal_snr(linear_beta_schedule(100)))
    x_t = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert denoised_from(schedule, x_t, x_t, 99, "eps").x0.isnan().all()
    answer = denoised_from(schedule, torch.full_like(x_t, -0.5), x_t, 99, "v")
    assert (answer.x0 == 0.5).all() and torch.equal(answer.eps, x_t)


# by name

@pytest.mark.parametrize("T", [25, 100, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_by_name(name, T):
    schedule = make_schedule(name, T)
    assert torch.equal(schedule.exact_betas, SCHEDULES[name](T)) and (log_snr(schedule).diff() < 0).all()
    assert make_schedule(name, T, zero_terminal_snr=True).alphas_cumprod[-1] == 0


def test_where_the_levels_of_the_named_schedules_lie():
    linear, *middle = (log_snr(make_schedule(name)) for name in ("linear", "cosine", "sigmoid"))
    assert 0.29 < (linear < -5).float().mean() < 0.31
    assert all((curve.abs() < 2).float().mean() > 0.5 for curve in middle)
    assert linear[258] > 0 > linear[259]
    last = {name: make_schedule(name).snr(999).item() for name in ("linear", "cosine")}
    assert last == {"linear": pytest.approx(4.036e-5, rel=1e-3), "cosine": pytest.approx(2.43e-9, rel=1e-2)}
    assert make_schedule("linear", zero_terminal_snr=True).snr(999) == 0


# the levels a sampler visits

def visited(*args, **kwargs):
    return [t for t, _ in time_pairs(*args, **kwargs)]


def test_known_lists():
    assert time_pairs(1000, 5) == [(999, 799), (799, 599), (599, 399), (399, 199), (199, -1)]
    assert visited(1000, 5, "leading") == [800, 600, 400, 200, 0]
    assert visited(1000, 4, "linspace") == [999, 666, 333, 0]
    assert visited(1000, 4, "quadratic") == [999, 444, 111, 0]
    uneven = {"trailing": [9, 7, 4, 1], "leading": [7, 5, 2, 0], "linspace": [9, 6, 3, 0], "quadratic": [9, 4, 1, 0]}
    assert {spacing: visited(10, 4, spacing) for spacing in uneven} == uneven  # 4 does not divide 10
    assert [visited(1000, 1, spacing) for spacing in SPACINGS] == [[999], [0], [999], [999], [999], [999]]


@pytest.mark.parametrize("spacing, first, last", [  # table 5.2
    ("trailing", 999, 99), ("leading", 900, 0), ("linspace", 999, 0), ("quadratic", 999, 0), ("logsnr", 999, 0)])
def test_the_ends_of_ten_steps(spacing, first, last):
    assert (visited(1000, 10, spacing)[0], visited(1000, 10, spacing)[-1]) == (first, last)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_levels_of_karras_start_at_the_top_and_end_low(name, zero):
    for T in (25, 100, 1000):
        schedule = make_schedule(name, T, zero_terminal_snr=zero)
        for steps in {3, 7, 10, 20, T // 2, T - 1, T}:
            times = [t for t, _ in karras_pairs(schedule, steps)]
            assert len(times) == steps and times[0] == T - 1 and times[-1] < max(2, T // 4)


@pytest.mark.parametrize("exponent, scale", [(1, lambda kappa: kappa), (1000, torch.log)])
def test_the_exponent_leads_from_even_in_kappa_to_even_in_log_snr(exponent, scale):
    line = torch.sigmoid(torch.linspace(5, -5, 2**14, dtype=torch.float64))
    straight = NoiseSchedule(betas_from_alpha_bar(torch.cat([doubles(1), line])))
    times = [t for t, _ in karras_pairs(straight, 9, exponent=exponent)]
    gaps = scale(((1 - line) / line).sqrt()[times]).diff()
    assert_close(gaps / gaps.mean(), torch.ones(8, dtype=torch.float64), rtol=0, atol=0.02)


def test_logsnr_on_a_straight_log_snr_is_linspace():
    line = torch.sigmoid(torch.linspace(8, -8, 1000, dtype=torch.float64))
    straight = NoiseSchedule(betas_from_alpha_bar(torch.cat([doubles(1), line])))
    assert visited(1000, 28, "logsnr", schedule=straight) == visited(1000, 28, "linspace")


@pytest.mark.parametrize("times, apart", [([0, 0, 0, 5, 9], [0, 1, 2, 5, 9]), ([0, 8, 9, 9, 9], [0, 6, 7, 8, 9]),
                                          ([0, 3, 9], [0, 3, 9])])
def test_levels_that_rounding_has_put_on_top_of_each_other_move_apart(times, apart):
    assert [t for t, _ in _pairs(times, 10)[::-1]] == apart


@pytest.mark.parametrize("T", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_gives_that_many_falling_moves_to_the_clean_image(spacing, T):
    schedule = make_schedule("cosine", T)
    awkward = (1, 2, 3, 7, 10, 20, 50, 61, 103, 300, 333, 499, 501, 600, 667, 999, 1000)
    for steps in awkward if T == 1000 and spacing in ("logsnr", "karras") else range(1, T + 1):  # they search
        pairs = time_pairs(T, steps, spacing, schedule=schedule)
        times = [t for t, _ in pairs]
        assert len(pairs) == steps, f"{spacing}, T={T}: {len(pairs)} moves for {steps} steps"
        assert all(a > b for a, b in pairs) and 0 <= times[-1] and times[0] < T
        assert [t_prev for _, t_prev in pairs] == times[1:] + [-1]
        assert spacing == "leading" or times[0] == T - 1
    assert visited(T, T, spacing, schedule=schedule) == list(range(T))[::-1]
