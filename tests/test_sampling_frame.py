"""What all samplers share: noise, labels, levels, modes, precision, memory, the progress bar. Seen through DDPM."""
import dataclasses
import math
import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course import ddpm
from ddpm_course.ddpm import as_labels, ddpm_sample, ddpm_steps, noise_source
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import PREDICTIONS, Denoised, NoiseSchedule, linear_beta_schedule, prediction_target
from ddpm_course.hub import load_pretrained
from ddpm_course.objective import Denoiser, eval_mode
from ddpm_course.schedules import make_schedule, time_pairs
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
    monkeypatch.setattr(ddpm, "tqdm", lambda steps, **options: bars.append(options) or steps)
    ddpm_sample(SMALL_WORLD, 1, steps=7)
    ddpm_sample(SMALL_WORLD, 1, steps=2, progress=False)
    assert bars == [dict(total=n, disable=off, leave=False, desc="sampling") for n, off in ((7, False), (2, True))]
