"""What the fast solvers promise beside their order of accuracy: calls, seeds, shapes, modes, memory."""
import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course.ddim import ddim_sample
from ddpm_course.ddpm import energy_test
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import Denoised, NoiseSchedule, linear_beta_schedule
from ddpm_course.guidance import with_guidance
from ddpm_course.schedules import SPACINGS, make_schedule, time_pairs
from ddpm_course.solvers import dpmpp_sample, dpmpp_steps, heun_sample, heun_steps, plms_sample, plms_steps

SCHEDULE = NoiseSchedule(linear_beta_schedule())
WORLD = GaussianMixture([[-0.8, -0.4], [0.1, 0.7], [0.8, -0.3]],
                        [[[0.06, 0.02], [0.02, 0.02]], [[0.05, -0.01], [-0.01, 0.02]], [[0.01, 0.01], [0.01, 0.05]]],
                        [0.4, 0.35, 0.25])
IDEAL = IdealDenoiser(WORLD, SCHEDULE)
GIVEN = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
SAMPLERS = {"heun": (heun_sample, heun_steps), "plms": (plms_sample, plms_steps), "dpmpp": (dpmpp_sample, dpmpp_steps)}


@pytest.fixture(params=SAMPLERS)
def name(request):
    return request.param


@pytest.fixture
def walk(name):
    "The solver's steps, one at a time."
    return SAMPLERS[name][1]


@pytest.fixture
def draw(name):
    "The solver's images, 6 steps where the test does not say otherwise."
    return lambda denoiser, noise_or_n, **how: SAMPLERS[name][0](denoiser, noise_or_n,
                                                                 **{"steps": 6, "progress": False, **how})


@pytest.mark.parametrize("spacing", SPACINGS)
def test_it_asks_once_a_step_and_heun_twice_but_for_the_last(name, draw, spacing):
    class Counting(IdealDenoiser):
        def __call__(self, x_t, t, y=None):
            calls.append(t)
            return super().__call__(x_t, t, y)

    for steps in (1, 2, 7, 50):
        calls = []
        out = draw(Counting(WORLD, SCHEDULE), 2, steps=steps, spacing=spacing, seed=0)
        assert out.shape == (2, 2) and out.dtype == torch.float32 and out.isfinite().all() and not out.requires_grad
        levels = [t for t, _ in time_pairs(1000, steps, spacing, schedule=SCHEDULE)]
        assert calls == ([t for level in levels for t in (level, level)][1:] if name == "heun" else levels)


def test_a_walk_starts_at_the_given_noise_and_ends_at_the_image(draw, walk):
    steps = list(walk(IDEAL, GIVEN, steps=6))
    assert torch.equal(steps[0].x_t, GIVEN) and torch.equal(steps[-1].x0, draw(IDEAL, GIVEN))


def test_one_step_is_the_guess_from_pure_noise(draw):
    assert torch.equal(draw(IDEAL, GIVEN, steps=1), IDEAL(GIVEN, 999).x0)


def test_a_seed_or_its_generator_decides_the_samples(draw):
    once = draw(IDEAL, 3, seed=3)
    assert torch.equal(once, draw(IDEAL, 3, seed=3))
    assert torch.equal(once, draw(IDEAL, 3, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(once, draw(IDEAL, 3, seed=4))


def test_with_seeds_an_image_does_not_depend_on_its_batch(draw):
    alone, batch = (draw(IDEAL, len(seeds), seeds=seeds) for seeds in ([7], [5, 7, 9]))
    assert_close(batch[1], alone[0])


def test_half_precision_noise_gives_float32_images(draw):
    assert draw(IDEAL, GIVEN.half(), steps=3).dtype == torch.float32


def test_labels_reach_the_denoiser(draw):
    "200 samples of the third class: their mean is within 0.1 of the class's, more than five standard errors."
    labelled = draw(IDEAL, 200, steps=20, y=2, seed=0)
    assert (labelled.mean(0) - WORLD.means[2]).norm() < 0.1


def test_a_thousand_samples_pass_for_exact_ones_but_not_with_few_steps(draw):
    "A perfect sampler fails once in a hundred; the seeds are fixed."
    g = torch.Generator().manual_seed(9)
    exact, start = WORLD.sample(1000, generator=g), torch.randn(1000, 2, generator=g)
    enough, few = (energy_test(draw(IDEAL, start, steps=steps), exact) for steps in (30, 3))
    assert enough > 0.01 > few


def test_with_guidance_it_arrives_where_ddim_arrives_in_many_steps(draw):
    guided, y = with_guidance(IDEAL, 2.0), torch.arange(60) % 3
    start = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
    end = ddim_sample(guided, start, steps=1000, y=y, progress=False)
    some, many = ((draw(guided, start, steps=steps, y=y) - end).norm(dim=1).mean() for steps in (20, 100))
    assert many < 0.01 and many < some


def test_memory_does_not_grow_with_the_steps(walk):
    kept, alive = [], []
    for step in walk(IDEAL, 2, steps=60, seed=0):
        kept += [weakref.ref(step.x_t), weakref.ref(step.x0)]
        alive.append(sum(ref() is not None for ref in kept))
    assert max(alive[10:]) == max(alive[:10]) <= 8


def test_from_pure_noise_all_solvers_come_to_one_end():
    zero_snr = IdealDenoiser(WORLD, make_schedule("linear", zero_terminal_snr=True))
    ends = [sample(zero_snr, GIVEN.double(), steps=200, progress=False) for sample, _ in SAMPLERS.values()]
    assert all(end.isfinite().all() and (end - ends[0]).abs().max() < 0.02 for end in ends)


class Five(nn.Module):
    "Answers 5 for the image; fails where it is asked in training mode."
    schedule, shape, clip = SCHEDULE, (2,), (-1.0, 1.0)

    def forward(self, x_t, t, y=None):
        assert not self.training
        return Denoised(torch.full_like(x_t, 5.0), x_t)


def test_guesses_are_clipped_to_the_range_of_images_unless_clip_is_none(draw):
    assert (draw(Five(), 2, seed=0) == 1).all() and (draw(Five(), 2, seed=0, clip=None) == 5).all()


def test_the_mode_is_put_back_also_where_sampling_stops_early(draw, walk):
    five = Five().train()
    draw(five, 2, seed=0)
    assert five.training
    steps = walk(five, 2, steps=4, seed=0)
    next(steps)
    assert not five.training
    steps.close()
    assert five.training


def test_with_self_conditioning_each_call_is_told_the_newest_guess(draw):
    told, said = [], []

    class Remembers(IdealDenoiser):
        self_conditioning = True

        def __call__(self, x_t, t, y=None, x0_prev=None):
            told.append(x0_prev)
            said.append(super().__call__(x_t, t, y))
            return said[-1]

    draw(Remembers(WORLD, SCHEDULE), 2, steps=4, seed=0)
    assert told[0] is None and len(told) >= 4
    assert all(torch.equal(guess, answer.x0) for guess, answer in zip(told[1:], said))
