"""What all samplers share: noise, labels, levels, modes, precision, memory, the progress bar. Seen through DDPM."""
import dataclasses
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course import ddpm
from ddpm_course.ddim import ddim_invert, ddim_sample, ddim_steps
from ddpm_course.ddpm import as_labels, ddpm_sample, ddpm_steps, noise_source
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import PREDICTIONS, Denoised, NoiseSchedule, linear_beta_schedule, prediction_target
from ddpm_course.hub import load_pretrained
from ddpm_course.lib.modes import eval_mode
from ddpm_course.objective import Denoiser
from ddpm_course.schedules import SPACINGS, make_schedule, time_pairs
from ddpm_course.solvers import dpmpp_sample, dpmpp_steps, heun_sample, heun_steps, plms_sample, plms_steps
from ddpm_course.unet import UNet, UNetConfig

SCHEDULE = NoiseSchedule(linear_beta_schedule())
SMALL_WORLD = IdealDenoiser(GaussianMixture([[0.5] * 16, [-0.5] * 16], 0.1), SCHEDULE, shape=(1, 4, 4))
START = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELLED = UNetConfig(image_size=8, image_channels=3, base_channels=8, channel_mults=(1,), num_res_blocks=1, groups=2,
                      attention_resolutions=(), dropout=0.5, num_classes=3, null_label=False)


def draw(denoiser, noise_or_n=2, **options):
    return ddpm_sample(denoiser, noise_or_n, **{"steps": 5, "progress": False, **options})


@pytest.fixture
def net():
    "A denoiser in training mode, with weights that let its dropout show."
    model = UNet(LABELLED)
    for part in model.parameters():
        nn.init.normal_(part, 0, 0.2, generator=torch.Generator().manual_seed(part.numel()))
    return Denoiser(model, make_schedule("linear", 25), "v", shape=(3, 8, 8)).train()


def modes(net):
    return [part.training for part in net.modules()]


# noise and levels

def test_a_seed_or_its_generator_decides_the_samples():
    once = draw(SMALL_WORLD, seed=3)
    assert torch.equal(once, draw(SMALL_WORLD, seed=3))
    assert torch.equal(once, draw(SMALL_WORLD, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(once, draw(SMALL_WORLD, seed=4))


@pytest.mark.parametrize("name, tolerance", [("exact", 1e-6), ("digits", 1e-4)])
def test_with_seeds_an_image_does_not_depend_on_its_batch(name, tolerance):
    denoiser = SMALL_WORLD if name == "exact" else load_pretrained(name)
    alone, batch = (draw(denoiser, len(seeds), seeds=seeds) for seeds in ([7], [5, 7, 9]))
    assert_close(alone[0], batch[1], rtol=0, atol=tolerance)
    assert not torch.equal(batch[0], batch[1])


def test_a_walk_starts_at_the_given_noise_and_visits_the_levels_of_the_grid():
    walk = list(ddpm_steps(SMALL_WORLD, START, steps=5, seed=0))
    assert [step.t for step in walk] == [t for t, _ in time_pairs(1000, 5)]
    assert torch.equal(walk[0].x_t, START)
    assert torch.equal(draw(SMALL_WORLD, START, seed=0), walk[-1].x0)


def test_all_levels_are_visited_by_default():
    assert len(list(ddpm_steps(IdealDenoiser(SMALL_WORLD.mixture, make_schedule("cosine", 10)), 1, seed=0))) == 10


SAMPLERS = {"ddpm": (ddpm_sample, ddpm_steps), "ddim": (ddim_sample, ddim_steps), "heun": (heun_sample, heun_steps),
            "plms": (plms_sample, plms_steps), "dpmpp": (dpmpp_sample, dpmpp_steps)}


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    "Each sampler, as one call and as steps, without a bar."
    sample, steps = SAMPLERS[request.param]
    return (lambda *args, **how: sample(*args, **{"progress": False, "seed": 0, **how}),
            lambda *args, **how: list(steps(*args, **{"seed": 0, **how})))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_steps_and_spacing_are_a_short_way_to_say_pairs(sampler, spacing):
    sample, walk = sampler
    pairs = time_pairs(1000, 6, spacing, schedule=SCHEDULE)
    assert [step.t for step in walk(SMALL_WORLD, START, steps=6, spacing=spacing)] == [t for t, _ in pairs]
    assert torch.equal(sample(SMALL_WORLD, START, pairs=pairs),
                       sample(SMALL_WORLD, START, steps=6, spacing=spacing))


def test_any_falling_pairs_will_do(sampler):
    _, walk = sampler
    assert [step.t for step in walk(SMALL_WORLD, 2, pairs=((900, 500), (500, 3), (3, -1)))] == [900, 500, 3]
    assert len(walk(SMALL_WORLD, 2, pairs=iter([(7, -1)]), steps=1)) == 1


@pytest.mark.parametrize("pairs, words", [
    ([(10, 20), (20, -1)], r"pairs\[0\] is \(10, 20\), expected a move .* to a lower level"),
    ([(900, 500), (400, -1)], r"pairs\[1\] is \(400, -1\), expected .* where the last one ended, 500"),
    ([(900, 500, -1)], r"pairs\[0\] is \(900, 500, -1\), expected a move \(t, t_prev\)"),
    ([(900, 500)], "pairs end at 500, expected a last move to -1"),
    ([], "pairs end at None, expected a last move to -1"),
    ([(1000, -1)], "a level in pairs is 1000, expected a whole number from -1 to 999"),
    ([(9.5, -1)], "a level in pairs is 9.5, expected a whole number"),
])
def test_pairs_that_lead_nowhere(sampler, pairs, words):
    with pytest.raises(ValueError, match=words):
        sampler[0](SMALL_WORLD, 2, pairs=pairs)


def test_pairs_beside_another_number_of_steps(sampler):
    with pytest.raises(ValueError, match="steps is 5, expected one of"):
        sampler[0](SMALL_WORLD, 2, pairs=[(7, -1)], steps=5)


def test_a_walk_that_starts_at_a_level_makes_the_moves_from_there_on(sampler):
    sample, walk = sampler
    moves = [t for t, _ in time_pairs(1000, 10)]
    for t, levels in ((399, [399, 299, 199, 99]), (999, moves), (0, [0]), (350, [350, 299, 199, 99]),
                      (np.int64(99), [99])):
        steps = walk(SMALL_WORLD, start=(START, t), steps=10, spacing="trailing")
        assert [step.t for step in steps] == levels and torch.equal(steps[0].x_t, START)
    steps = walk(SMALL_WORLD, start=(START, 950), steps=10, spacing="leading")  # whose first level is 900
    assert [step.t for step in steps][:2] == [950, 800]
    assert torch.equal(sample(SMALL_WORLD, 2, start=(START, 399), steps=10),
                       sample(SMALL_WORLD, None, start=(START, 399), steps=10))


def test_from_a_low_level_the_image_comes_back_and_from_a_high_one_it_is_a_new_one(sampler):
    "Pictures edited by SDEdit (Meng et al. 2022) stay closer to what they were, the lower the level."
    image = SMALL_WORLD.mixture.sample(64, generator=torch.Generator().manual_seed(0)).float().view(64, 1, 4, 4)
    noised = lambda t: SCHEDULE.q_sample(image, t, generator=torch.Generator().manual_seed(1))
    moved = [(sampler[0](SMALL_WORLD, start=(noised(t), t), steps=20) - image).square().mean().item()
             for t in (5, 100, 900)]
    assert moved[0] < 0.01 and moved[0] < moved[1] < moved[2] and moved[2] > 0.1


def test_where_a_sampler_is_left_it_can_be_taken_up():
    whole = list(ddim_steps(SMALL_WORLD, START, steps=10))
    rest = list(ddim_steps(SMALL_WORLD, start=(whole[4].x_t, whole[4].t), steps=10))
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(whole[4:], rest, strict=True))


@pytest.mark.parametrize("bad, words", [
    (dict(start=START), r"start is Tensor, expected a pair \(x_t, t\)"),
    (dict(start=(5, START)), r"start is tuple, expected a pair \(x_t, t\)"),
    (dict(start=(torch.tensor(5), 5)), r"start is tuple, expected a pair \(x_t, t\)"),  # no number of images
    (dict(start=(START, -1)), "the level to start from is -1, expected a whole number from 0 to 999"),
    (dict(start=(START, 1000)), "the level to start from is 1000, expected"),
    (dict(start=(START, 0.5)), "the level to start from is 0.5, expected"),
    (dict(start=(START[:, :, 1:], 5)), r"start is torch.float32 of shape \(2, 1, 3, 4\)"),
    (dict(start=(START.long(), 5)), "start is torch.int64"),
    (dict(start=(START, 5), noise_or_n=3), "noise_or_n beside start is 3, expected"),
    (dict(start=(START, 5), noise_or_n=2 * START), "noise_or_n beside start is"),
])
def test_a_start_that_does_not_fit(sampler, bad, words):
    with pytest.raises(ValueError, match=words):
        sampler[0](SMALL_WORLD, **{"steps": 4, **bad})


def test_an_option_that_nobody_knows_is_named(sampler):
    with pytest.raises(TypeError, match="stesp"):
        sampler[0](SMALL_WORLD, 2, stesp=4)


def test_the_number_of_images_may_be_a_tensor():
    assert draw(SMALL_WORLD, torch.tensor(3), steps=1).shape == (3, 1, 4, 4)


def test_noise_is_float32_whatever_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert noise_source((2, 1), "cpu")().dtype == noise_source((2, 1), "cpu", seeds=[1, 2])().dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


# labels

def test_labels_become_int64_one_for_each_image():
    assert as_labels(None, 2, "cpu") is None
    assert as_labels(3, 2, "cpu").tolist() == [3, 3] and as_labels([1, 2], 2, "cpu").dtype == torch.int64
    assert as_labels(7, 2, "cpu").tolist() == [7, 7]  # nothing is known of how many there are
    assert as_labels([0, 2], 2, "meta", 3).device.type == "meta"


def test_a_denoiser_knows_how_many_labels_its_network_has(net):
    assert net.num_labels == 3
    with_none = UNet(dataclasses.replace(LABELLED, null_label=True))
    assert Denoiser(with_none, net.schedule, shape=(3, 8, 8)).num_labels == 4


# the network: what it may be, and the mode it is in

def test_a_schedule_that_ends_in_pure_noise_can_be_walked(net):
    ends_in_noise = make_schedule("cosine", 20, zero_terminal_snr=True)
    denoiser = Denoiser(net.model, ends_in_noise, "v", shape=(3, 8, 8))
    assert draw(denoiser, 1, steps=None, y=0, seed=0).isfinite().all()


class Answers(nn.Module):
    "A network that gives the answers of an ideal denoiser, as the prediction it was made for."

    def __init__(self, ideal, prediction):
        super().__init__()
        self.ideal, self.prediction = ideal, prediction

    def forward(self, x, t, y=None):
        return prediction_target(self.ideal.schedule, *self.ideal(x, t), t, self.prediction)


@pytest.mark.parametrize("shape, name, T", [((2,), "sigmoid", 50), ((3, 2, 5), "linear", 40),
                                            ((1, 7, 3), "exponential", 30)])
def test_any_prediction_gives_the_same_samples(shape, name, T):
    schedule = make_schedule(name, T)
    ideal = IdealDenoiser(GaussianMixture([[0.3] * math.prod(shape)], 0.2), schedule, shape=shape)
    expected = draw(ideal, 5, steps=20, seed=0)
    assert expected.shape == (5, *shape)
    for prediction in PREDICTIONS:
        denoiser = Denoiser(Answers(ideal, prediction), schedule, prediction, shape=shape, clip=None)
        assert_close(draw(denoiser, 5, steps=20, seed=0), expected, rtol=0, atol=1e-3)


def test_sampling_is_done_in_eval_mode_and_puts_every_mode_back(net):
    next(part for part in net.modules() if isinstance(part, nn.Dropout)).eval()  # a part that is frozen
    before = modes(net)
    assert not all(before)
    assert torch.equal(*(draw(net, steps=4, y=1, seed=0) for _ in range(2)))
    assert modes(net) == before


def test_a_walk_that_is_left_in_the_middle_puts_every_mode_back(net):
    before = modes(net)
    walk = ddpm_steps(net, 2, steps=4, y=1, seed=0)
    next(walk)
    assert not any(modes(net))
    del walk
    assert modes(net) == before


def test_a_network_that_fails_in_the_middle_puts_every_mode_back(net, monkeypatch):
    before, forward = modes(net), net.model.forward

    def fails_at_the_end(x, t, y):
        if t[0] == 0:
            raise MemoryError
        return forward(x, t, y)

    monkeypatch.setattr(net.model, "forward", fails_at_the_end)
    for walk in (lambda: draw(net, steps=25, y=1),
                 lambda: ddim_invert(net, torch.zeros(2, 3, 8, 8), steps=4, y=1, progress=False)):
        with pytest.raises(MemoryError) as held:  # with the frames of the walk in its traceback
            walk()
        assert modes(net) == before, held


def test_a_network_that_trains_in_a_wrapper_that_does_not(net):
    net.eval()
    net.model.train()
    assert torch.equal(*(draw(net, steps=4, y=1, seed=0) for _ in range(2)))
    assert net.model.training and not net.training


def test_a_wrapper_that_trains_around_a_network_that_does_not(net):
    net.model.eval()
    before = modes(net)
    with eval_mode(net):
        assert not any(modes(net))
    assert modes(net) == before and net.training


def test_a_denoiser_that_is_no_torch_module_but_can_train():
    class Mode:
        on = True
        training = property(lambda self: self.on)

        def train(self):
            self.on = True

        def eval(self):
            self.on = False

    wrapped = Mode()
    with eval_mode(wrapped):
        assert not wrapped.training
    assert wrapped.training


def test_no_grad_does_not_leak_out_of_a_walk(net):
    for step in ddpm_steps(net, 2, steps=3, y=1, seed=0):
        assert torch.is_grad_enabled() and not step.x0.requires_grad


# precision, memory, what is handed on, and the bar

class Told:
    "A denoiser of small images that passes on the answers of `answer(x_t, t)`."
    schedule, shape, clip = SCHEDULE, (1, 4, 4), None

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, x_t, t, y=None):
        return self.answer(x_t, t)


def test_the_state_is_float32_under_autocast(net):
    with torch.autocast("cpu", torch.bfloat16):
        walk = list(ddpm_steps(net, 2, steps=3, y=1, seed=0))
    assert {part.dtype for step in walk for part in (step.x_t, step.x0)} == {torch.float32}


@pytest.mark.parametrize("start, state", [(torch.bfloat16, torch.float32), (torch.float32, torch.float32),
                                          (torch.float64, torch.float64)])
def test_the_state_is_float32_or_better_whatever_the_answers_are(start, state):
    half = Told(lambda x_t, t: Denoised(*(part.bfloat16() for part in SMALL_WORLD(x_t, t))))
    walk = list(ddpm_steps(half, START.to(start), steps=4, seed=0))
    assert {part.dtype for step in walk for part in (step.x_t, step.x0)} == {state}


def test_memory_does_not_grow_with_the_steps():
    alive, most = [], 0
    for step in ddpm_steps(SMALL_WORLD, 2, steps=200, seed=0):
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(step.x_t), weakref.ref(step.x0)]
        most = max(most, len(alive))
    assert most <= 6  # states and guesses that exist at one time


def test_with_self_conditioning_each_call_is_told_the_guess_before():
    class Remembering(Told):
        self_conditioning, told = True, []

        def __call__(self, x_t, t, y=None, x0_prev=None):
            self.told.append(x0_prev)
            return self.answer(x_t, t)

    guesses = [step.x0 for step in ddpm_steps(Remembering(SMALL_WORLD), 1, steps=4, seed=0)]
    first, *others = Remembering.told
    assert first is None and len(others) == 3 and all(map(torch.equal, others, guesses))


def test_the_progress_bar_counts_the_steps_and_can_be_left_out(monkeypatch):
    bars = []
    monkeypatch.setattr(ddpm, "tqdm", lambda pairs, **options: bars.append((len(pairs), options)) or pairs)
    ddpm_sample(SMALL_WORLD, 1, steps=7)
    ddpm_sample(SMALL_WORLD, 1, steps=2, progress=False)
    assert bars == [(n, dict(disable=off, leave=False, desc="sampling")) for n, off in ((7, False), (2, True))]
