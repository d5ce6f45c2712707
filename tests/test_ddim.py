"""DDIM, its inversion and slerp where chapter 09 need not look: calls, seeds, modes, precision, ends of ranges."""
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course.ddim import ddim_coefficients, ddim_invert, ddim_sample, ddim_steps, slerp
from ddpm_course.ddpm import ddpm_steps
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import Denoised, NoiseSchedule, linear_beta_schedule
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import SPACINGS, make_schedule, time_pairs

SCHEDULE = NoiseSchedule(linear_beta_schedule())
TINY = GaussianMixture([[0.5] * 16, [-0.5] * 16], 0.1)
SMALL_WORLD = IdealDenoiser(TINY, SCHEDULE, shape=(1, 4, 4))
GIVEN = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def draw(denoiser, noise_or_n=GIVEN, **options):
    return ddim_sample(denoiser, noise_or_n, **{"steps": 4, "progress": False, **options})


class Counting(IdealDenoiser):
    "Keeps the levels at which it was asked."

    def __init__(self):
        super().__init__(TINY, SCHEDULE, shape=(1, 4, 4))
        self.calls = []

    def __call__(self, x_t, t, y=None):
        self.calls.append(t)
        return super().__call__(x_t, t, y)


class Dropping(nn.Module):
    "A network of dropout alone; with labels it answers NaN at levels below 300."

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x, t, y=None):
        return self.drop(x) * (float("nan") if (t < 300).any() and y is not None else 0.5)


@pytest.fixture
def net():
    return Denoiser(Dropping(), SCHEDULE, "v", shape=(1, 4, 4)).train()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 50, 300])
def test_it_asks_once_a_step_at_the_levels_of_the_grid(steps, spacing):
    counting = Counting()
    out = draw(counting, 1, steps=steps, spacing=spacing, seed=0)
    assert counting.calls == [t for t, _ in time_pairs(1000, steps, spacing, schedule=SCHEDULE)]
    assert len(counting.calls) == steps
    assert out.shape == (1, 1, 4, 4) and out.dtype == torch.float32 and out.isfinite().all()


def test_the_same_seed_gives_the_same_samples():
    assert torch.equal(*(draw(SMALL_WORLD, 3, seed=5) for _ in range(2)))


def test_the_seed_matters_beside_given_noise_only_where_eta_is_above_0():
    assert torch.equal(*(draw(SMALL_WORLD, seed=seed) for seed in (5, 6)))
    assert not torch.equal(*(draw(SMALL_WORLD, eta=1.0, seed=seed) for seed in (5, 6)))


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_with_seeds_an_image_does_not_depend_on_its_batch(eta):
    alone, batch = (draw(SMALL_WORLD, len(seeds), eta=eta, seeds=seeds) for seeds in ([7], [5, 7, 9]))
    assert_close(alone[0], batch[1], rtol=0, atol=1e-6)


def test_nothing_is_added_at_the_end():
    walk = list(ddim_steps(SMALL_WORLD, GIVEN, steps=20, eta=1.0, seed=0))
    assert walk[-1].t == time_pairs(1000, 20)[-1][0]
    assert torch.equal(walk[-1].x0, draw(SMALL_WORLD, steps=20, eta=1.0, seed=0))


def test_no_grad_does_not_leak_out_of_a_walk(net):
    for step in ddim_steps(net, GIVEN, steps=3):
        assert torch.is_grad_enabled() and not step.x0.requires_grad


def test_where_the_schedule_ends_in_pure_noise_roots_stay_real_and_eta_1_is_ddpm():
    schedule = make_schedule("cosine", 20, zero_terminal_snr=True)
    for eta in (0.0, 0.5, 1.0):
        for t, s in time_pairs(20, 20) + time_pairs(20, 3):
            factors = ddim_coefficients(schedule.scales(t), schedule.scales(s), eta)
            assert all(type(factor) is float and factor >= 0 for factor in factors)  # a complex root has no order
    world = IdealDenoiser(GaussianMixture([[-1.0, -0.5], [1.0, 0.2]], 0.03), schedule)
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, ddpm = ddim_steps(world, noise, steps=20, eta=1.0, seed=0), ddpm_steps(world, noise, seed=0)
    for a, b in zip(ours, ddpm, strict=True):
        assert_close((a.x_t, a.x0), (b.x_t, b.x0), rtol=0, atol=1e-9)


def test_sampling_is_done_in_eval_mode_and_puts_the_mode_back(net):
    assert torch.equal(*(draw(net) for _ in range(2)))
    assert net.training and net.model.drop.training


def test_the_mode_is_put_back_where_sampling_fails(net):
    with pytest.raises(FloatingPointError, match="at t = 249"):
        draw(net, y=1)
    assert net.training and net.model.drop.training


def test_inversion_is_done_in_eval_mode_and_puts_the_mode_back(net):
    assert torch.equal(*(ddim_invert(net, GIVEN, steps=3, progress=False) for _ in range(2)))
    assert net.training and net.model.drop.training


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_state_is_float32_where_answers_are_in_half_precision(eta):
    class Halves:
        schedule, shape, clip = SCHEDULE, (1, 4, 4), None

        def __call__(self, x_t, t, y=None):
            return Denoised(*(part.half() for part in SMALL_WORLD(x_t, t)))

    walk = ddim_steps(Halves(), 2, steps=4, eta=eta, seed=0)
    assert {part.dtype for step in walk for part in (step.x_t, step.x0)} == {torch.float32}


def test_inversion_asks_at_the_level_each_move_leaves():
    counting = Counting()
    ddim_invert(counting, GIVEN[:1], steps=5, progress=False)
    assert counting.calls == [0] + [t for t, _ in time_pairs(1000, 5)][:0:-1]


def test_inversion_does_not_clip(net):
    narrow = Denoiser(net.model, SCHEDULE, "v", shape=(1, 4, 4), clip=(-0.1, 0.1))
    assert torch.equal(*(ddim_invert(d, GIVEN, steps=3, progress=False) for d in (narrow, net)))


def test_slerp_ends_at_both_ends():
    a, b = torch.randn(2, 5, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert_close(slerp(a, b, 0.0), a)
    assert_close(slerp(a, b, 1.0), b)
    assert_close(slerp(a, a, 0.3), a)


def test_slerp_takes_the_straight_line_where_there_is_no_arc():
    one = torch.ones(2, 1, 2, 2)
    for other, expected in ((one, one), (-one, 0.4 * one), (0 * one, 0.7 * one)):
        assert_close(slerp(one, other, 0.3), expected)


def test_each_pair_of_a_batch_has_its_own_angle():
    one, across = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    half_way = slerp(torch.cat([one, one]), torch.cat([one, across]), 0.5)
    assert_close(half_way, torch.cat([one, (one + across) / 2**0.5]))
