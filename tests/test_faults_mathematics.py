"""Faults that users reported, in what is computed: weights, samples, ranges, variances, kinds of numbers, precision."""
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course.ddim import ddim_invert, ddim_sample, ddim_steps
from ddpm_course.ddpm import ddpm_sample, ddpm_steps, noise_source
from ddpm_course.exact import GaussianMixture, IdealDenoiser, loss_floor, step_back
from ddpm_course.forward import PREDICTIONS, Denoised, Gaussian, NoiseSchedule, linear_beta_schedule
from ddpm_course.guidance import with_guidance
from ddpm_course.likelihood import bits_per_dim, discretized_log_prob, vlb_terms
from ddpm_course.objective import WEIGHTINGS, Denoiser, diffusion_loss, loss_weight
from ddpm_course.schedules import SCHEDULES, SPACINGS, make_schedule, time_pairs
from ddpm_course.solvers import dpmpp_sample, heun_sample, plms_sample
from ddpm_course.unet import UNet, UNetConfig

SCHEDULE = NoiseSchedule(linear_beta_schedule())
SAMPLERS = {"ddpm": ddpm_sample, "ddim": ddim_sample, "heun": heun_sample, "plms": plms_sample, "dpmpp": dpmpp_sample}
GIVEN = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2])


def small(**options):
    "A denoiser around a small network that knows three labels, with weights that all matter."
    model = UNet(UNetConfig(image_size=8, image_channels=1, base_channels=8, channel_mults=(1, 2), num_res_blocks=1,
                            groups=2, attention_resolutions=(4,), num_classes=3, null_label=True, dropout=0.0))
    for part in model.parameters():
        nn.init.normal_(part, 0, 0.1, generator=torch.Generator().manual_seed(part.numel()))
    return Denoiser(model, SCHEDULE, "v", **{"shape": (1, 8, 8), **options}).eval()


@pytest.fixture(params=SAMPLERS)
def draw(request):
    return lambda denoiser, noise_or_n=GIVEN, **how: SAMPLERS[request.param](
        denoiser, noise_or_n, **{"steps": 4, "progress": False, "seed": 0, **how})


class Far(nn.Module):
    "A network that answers 5 for the image, and remembers the precision it was asked in."
    def forward(self, x, t, y=None):
        self.asked = x.dtype
        return torch.full_like(x, 5.0)


# 9: loss weights where the last level is pure noise

def old_weight(schedule, t, prediction, weighting, gamma):
    "By the ratios, as the first version had it: NaN or infinite at a level without signal."
    snr = schedule.snr(t)
    eps = {"simple": torch.ones_like(snr), "min_snr": snr.clamp(max=gamma) / snr, "snr": torch.ones_like(snr),
           "vlb": schedule.betas[t] / (2 * schedule.alphas[t] * schedule.one_minus_alpha_bar(t))}[weighting]
    return eps if weighting == "simple" else eps * {"eps": 1, "x0": snr, "v": snr / (snr + 1)}[prediction]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name, T", [*itertools.product(SCHEDULES, (25, 1000))])
def test_9_loss_weights_are_finite_at_every_level(name, T, zero):
    schedule, t = make_schedule(name, T, zero_terminal_snr=zero), torch.arange(T)
    for prediction, weighting, gamma in itertools.product(PREDICTIONS, WEIGHTINGS, (1.0, 5.0)):
        weight = loss_weight(schedule, t, prediction, weighting, gamma)
        old = old_weight(schedule, t, prediction, weighting, gamma)
        assert weight.shape == (T,) and weight.isfinite().all() and (weight >= 0).all()
        known = old.isfinite()
        assert known[:-1].all() and (known[-1] or zero)
        assert_close(weight[known], old[known], rtol=2e-6, atol=0)


def test_9_the_weights_at_a_level_of_pure_noise_are_their_limits():
    schedule = make_schedule("cosine", 1000, zero_terminal_snr=True)
    last, before = torch.tensor([999]), schedule.alpha_bar(998)
    assert loss_weight(schedule, last, "v", "vlb") == loss_weight(schedule, last, "x0", "vlb") == before / 2
    for prediction in ("v", "x0"):
        assert loss_weight(schedule, last, prediction, "min_snr") == loss_weight(schedule, last, prediction, "snr") == 0


def test_9_a_loss_at_a_level_of_pure_noise_is_a_number_and_gamma_reaches_it():
    schedule = make_schedule("cosine", 20, zero_terminal_snr=True)
    net = Denoiser(small().model, schedule, "v", shape=(1, 8, 8))
    noise, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 19])
    for weighting in WEIGHTINGS:
        assert diffusion_loss(net, GIVEN, t, noise, weighting=weighting).isfinite().all()
    loss = {g: diffusion_loss(net, GIVEN, t, noise, weighting="min_snr", gamma=g)[0] for g in (1.0, 2.0)}
    assert schedule.snr(3) > 2
    assert_close(loss[2.0], 2 * loss[1.0])


@pytest.mark.parametrize("gamma", [0, -1.0, float("nan"), "5"])
def test_9_a_gamma_that_is_no_positive_number(gamma):
    with pytest.raises(ValueError, match="gamma is .*expected"):
        loss_weight(SCHEDULE, torch.tensor([3]), "eps", "min_snr", gamma)


# 10: samples are ordinary tensors

def test_10_a_classifier_is_trained_on_samples_and_they_can_be_changed_in_place(draw):
    images, layer = draw(small(), y=LABELS), nn.Linear(64, 3)
    nn.functional.cross_entropy(layer(images.flatten(1)), LABELS).backward()
    assert layer.weight.grad.abs().sum() > 0 and not images.requires_grad
    images.mul_(2)
    images.requires_grad_()


def test_10_steps_and_inverted_noise_are_ordinary_tensors_too():
    for x in (*(part for step in ddim_steps(small(), GIVEN, steps=2) for part in (step.x_t, step.x0)),
              ddim_invert(small(), GIVEN, steps=2, progress=False)):
        assert not x.is_inference() and not x.requires_grad


class ByClassifier:
    "Classifier guidance (Dhariwal and Nichol 2021): eps moves against the gradient of log p(y | x_t)."
    schedule, shape, clip = SCHEDULE, (2,), None

    def __init__(self, mixture):
        self.mixture, self.ideal = mixture, IdealDenoiser(mixture, SCHEDULE)

    def __call__(self, x_t, t, y=None):
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            shares = self.mixture.at(SCHEDULE, t).responsibilities(x)
            slope, = torch.autograd.grad(shares.gather(1, y[:, None]).log().sum(), x)
        (a, sigma), eps = SCHEDULE.scales(t), self.ideal(x_t, t).eps - SCHEDULE.scales(t)[1] * slope
        return Denoised((x_t - sigma * eps) / a, eps)


def test_10_a_classifier_guides_inside_a_denoiser(draw):
    "By Bayes' rule the guided answer is the conditional one, so the samples are those of the class."
    world = GaussianMixture([[-0.8, -0.4], [0.5, 0.7]], 0.05)
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    guided, known = (draw(d, noise, y=[1, 1, 0, 0]) for d in (ByClassifier(world), IdealDenoiser(world, SCHEDULE)))
    assert_close(guided, known, rtol=0, atol=1e-4)


# 12: the range that a model states

def test_12_samples_and_bounds_heed_the_range_of_the_model(draw):
    unit = Denoiser(Far(), SCHEDULE, "x0", shape=(1, 8, 8), clip=(0.0, 1.0))
    assert (draw(unit) == 1).all() and (draw(unit, clip=(-3, 3)) == 3).all() and (draw(unit, clip=None) == 5).all()
    bound = {clip: vlb_terms(unit, GIVEN, decoder="gaussian", levels=[500], clip=clip, noise=GIVEN).L_t
             for clip in ("denoiser", (0, 1), None)}
    assert torch.equal(bound["denoiser"], bound[0, 1]) and not torch.equal(bound["denoiser"], bound[None])


def test_12_a_clip_may_be_a_function(draw):
    def threshold(x0):
        "Dynamic thresholding (Saharia et al. 2022) by the largest value."
        return x0 / x0.abs().flatten(1).amax(1).clamp(min=1).view(-1, 1, 1, 1)

    far = Denoiser(Far(), SCHEDULE, "x0", shape=(1, 8, 8))
    assert (draw(far, clip=threshold) == 1).all()
    assert (vlb_terms(far, GIVEN, decoder="gaussian", levels=[5], noise=GIVEN, clip=threshold).L_t
            == vlb_terms(far, GIVEN, decoder="gaussian", levels=[5], noise=GIVEN, clip=(-1, 1)).L_t).all()


def test_12_the_decoder_counts_pixels_in_the_range_of_the_model():
    "The same pixels and the same Gaussian in another unit: the same probabilities."
    k = torch.tensor([0, 1, 100, 254, 255])
    for mean, variance in ((0.2, 0.01), (-1.0, 1e-4)):
        usual = discretized_log_prob(Gaussian(torch.tensor(mean), torch.tensor(variance)), k / 127.5 - 1)
        unit = discretized_log_prob(Gaussian(torch.tensor((mean + 1) / 2), torch.tensor(variance / 4)), k / 255, 0, 1)
        assert_close(unit, usual, rtol=1e-4, atol=1e-6)
    image = (torch.arange(64) * 4).view(1, 1, 8, 8) / 255
    model = Denoiser(Far(), SCHEDULE, "x0", shape=(1, 8, 8), clip=(0.0, 1.0))
    assert vlb_terms(model, image, levels=[3]).L_0.isfinite().all()
    with pytest.raises(ValueError, match="off the grid of 8-bit pixels, expected k / 255"):
        vlb_terms(model, image - 1, levels=[3])


@pytest.mark.parametrize("clip", ["denoser", (1, 0), (1,), 1.0, (0, float("nan"))])
def test_12_a_clip_that_is_none_of_these(draw, clip):
    with pytest.raises(ValueError, match="clip is .*expected 'denoiser', None, a pair"):
        draw(small(), clip=clip)


# 13: the variance that goes with a model

def test_13_the_variance_that_a_denoiser_names_is_the_default():
    plain, large = small(), small(variance="large")
    how = dict(steps=5, seed=0, progress=False)
    assert torch.equal(ddpm_sample(large, 2, **how), ddpm_sample(plain, 2, variance="large", **how))
    assert torch.equal(ddpm_sample(plain, 2, **how), ddpm_sample(large, 2, variance="small", **how))
    assert not torch.equal(ddpm_sample(large, 2, **how), ddpm_sample(plain, 2, **how))
    guided = with_guidance(large, 2)
    assert guided.variance == "large" and torch.equal(ddpm_sample(guided, GIVEN, y=LABELS, **how),
                                                      ddpm_sample(guided, GIVEN, y=LABELS, variance="large", **how))
    bound = [vlb_terms(d, GIVEN, decoder="gaussian", levels=[5], noise=GIVEN, **v).L_t
             for d, v in ((large, {}), (plain, {"variance": "large"}), (plain, {}))]
    assert torch.equal(bound[0], bound[1]) and not torch.equal(bound[0], bound[2])


def test_13_a_variance_that_is_unknown():
    with pytest.raises(ValueError, match="variance is 'learned', expected one of"):
        small(variance="learned")


# 11: names of the classes

def test_11_a_denoiser_keeps_the_names_of_its_classes():
    assert small(classes=("cat", "dog", "owl")).classes == ["cat", "dog", "owl"] and small().classes is None
    assert with_guidance(small(classes=["cat", "dog", "owl"]), 2).classes == ["cat", "dog", "owl"]


# 14: guidance that ignores labels, and the numbers of other libraries

@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_14_at_scale_0_guidance_is_the_answer_without_labels(rescale):
    world = GaussianMixture([[-1.0] * 64, [1.0] * 64], 0.1)
    for denoiser in (small(), IdealDenoiser(world, SCHEDULE, shape=(1, 8, 8))):
        guided, plain = with_guidance(denoiser, 0, rescale), denoiser(GIVEN, 300)
        for y in (torch.tensor([0, 1]), torch.tensor([1, 0])):
            answer = guided(GIVEN, 300, y)
            assert torch.equal(answer.x0, plain.x0) and torch.equal(answer.eps, plain.eps)


def test_14_rescaling_takes_back_only_contrast_that_was_added():
    denoiser = small()
    for scale in (0.5, 1.0):
        answers = [with_guidance(denoiser, scale, rescale)(GIVEN, 300, LABELS).x0 for rescale in (0.0, 1.0)]
        assert torch.equal(*answers)
    contrast = lambda x0: x0.flatten(1).std(1, correction=0)
    assert_close(contrast(with_guidance(denoiser, 4, 1.0)(GIVEN, 300, LABELS).x0),
                 contrast(denoiser(GIVEN, 300, LABELS).x0))


def test_14_numbers_of_numpy_are_numbers(draw):
    net, N = small(), np.int64
    assert torch.equal(draw(net, N(2), steps=N(3), seed=N(5), y=N(1)), draw(net, 2, steps=3, seed=5, y=1))
    assert torch.equal(draw(net, 2, seed=None, seeds=np.array([3, 4])), draw(net, 2, seed=None, seeds=[3, 4]))
    assert torch.equal(draw(net, y=np.array([0, 2])), draw(net, y=LABELS))
    assert torch.equal(net(GIVEN, N(7)).x0, net(GIVEN, 7).x0)


@pytest.mark.parametrize("t", [np.int64(7), np.int32(7), torch.tensor(7)])
def test_14_a_level_may_be_a_number_of_numpy(t):
    schedule = make_schedule("cosine", np.int64(50))
    world = GaussianMixture([[0.3]], 0.2)
    x, ideal = torch.zeros(3, 1), IdealDenoiser(world, schedule)
    for look_up in (schedule.alpha_bar, schedule.one_minus_alpha_bar, schedule.snr,
                    lambda t: torch.stack([torch.as_tensor(c, dtype=torch.float64) for c in schedule.scales(t)]),
                    lambda t: schedule.q_sample(x, t, x + 1), lambda t: schedule.q_posterior(x, x + 1, t).mean,
                    lambda t: schedule.q_step(x, t, generator=torch.Generator().manual_seed(0)),
                    lambda t: ideal(x, t).x0, lambda t: ideal.x0_variance(x, t)):
        assert_close(look_up(t), look_up(7), rtol=1e-6, atol=0, check_dtype=False)
    if not isinstance(t, torch.Tensor):
        assert torch.equal(world.at(schedule, t).variances, world.at(schedule, 7).variances)
        assert loss_floor(ideal, t, n=5) == loss_floor(ideal, 7, n=5)
        assert torch.equal(step_back(world, schedule, t, x[0], t - 1).means,
                           step_back(world, schedule, 7, x[0], 6).means)


def test_14_numbers_of_numpy_elsewhere():
    N = np.int64
    for spacing in SPACINGS:
        pairs = time_pairs(N(100), N(7), spacing)
        assert pairs == time_pairs(100, 7, spacing) and {type(level) for pair in pairs for level in pair} == {int}
    for make in SCHEDULES.values():
        assert torch.equal(make(N(50)), make(50))
    bits = [bits_per_dim(small(), GIVEN, levels=n, decoder="gaussian", noise=GIVEN,
                         generator=torch.Generator().manual_seed(0)) for n in (N(3), 3)]
    assert torch.equal(*bits)
    assert torch.equal(ddim_sample(small(), GIVEN, steps=3, eta=np.float32(0), progress=False),
                       ddim_sample(small(), GIVEN, steps=3, progress=False))
    assert torch.equal(with_guidance(small(), np.float64(2))(GIVEN, 5, LABELS).x0,
                       with_guidance(small(), 2)(GIVEN, 5, LABELS).x0)


@pytest.mark.parametrize("bad, words", [
    (dict(noise_or_n=True), "noise_or_n is True, expected"), (dict(noise_or_n=2.0), "noise_or_n is 2.0, expected"),
    (dict(noise_or_n="2"), "noise_or_n is '2', expected"), (dict(noise_or_n=None), "noise_or_n is None, expected"),
    (dict(noise_or_n=np.zeros((2, 1, 8, 8))), "noise_or_n is array"),
    (dict(steps=2.5), "steps is 2.5, expected"), (dict(steps=True), "steps is True, expected"),
    (dict(steps="5"), "steps is '5', expected"), (dict(seed=1.5), "seed is 1.5, expected"),
    (dict(seed=None, seeds=[1, 2.5]), r"seeds\[1\] is 2.5, expected"),
])
def test_14_what_is_no_such_number_is_refused_by_name(draw, bad, words):
    with pytest.raises((ValueError, TypeError), match=words):
        draw(small(), **{"noise_or_n": 2, **bad})


# 17: seeds outside of 64 bits

@pytest.mark.parametrize("seed", [-1, 2**64, -(2**70)])
def test_17_seeds_outside_of_64_bits_are_refused_by_name(draw, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}, expected a whole number from 0 to"):
        draw(small(), 2, seed=seed)
    with pytest.raises(ValueError, match=rf"seeds\[1\] is {seed}, expected"):
        draw(small(), 2, seed=None, seeds=[0, seed])


def test_17_the_ends_of_the_range_are_seeds():
    assert not torch.equal(noise_source((4,), "cpu", 0)(), noise_source((4,), "cpu", 2**64 - 1)())


# 18: a network in another precision

@pytest.mark.parametrize("change, dtype", [("half", torch.float16), ("bfloat16", torch.bfloat16),
                                           ("double", torch.float64), ("float", torch.float32)])
def test_18_a_network_is_asked_in_its_own_precision_and_the_state_stays_float32(draw, change, dtype):
    net, y = small(), LABELS
    wanted = draw(net, y=y)
    asked = []
    getattr(net, change)().model.register_forward_pre_hook(lambda model, args: asked.append(args[0].dtype))
    images = draw(net, y=y)
    assert set(asked) == {dtype} and images.dtype == torch.float32 and net.schedule.betas.dtype == torch.float32
    assert (images - wanted).abs().max() < 0.1 and (images - wanted).abs().mean() < 0.01
    assert {part.dtype for s in ddpm_steps(net, GIVEN, steps=2, y=y) for part in (s.x_t, s.x0)} == {torch.float32}


@pytest.mark.parametrize("change", ["half", "double"])
def test_18_a_loss_and_a_guided_answer_of_such_a_network(change):
    net = getattr(small(), change)()
    t, noise = torch.tensor([3, 900]), torch.zeros_like(GIVEN)
    loss = diffusion_loss(net, GIVEN, t, noise, y=LABELS)
    assert loss.isfinite().all() and loss.dtype == (torch.float64 if change == "double" else torch.float32)
    assert with_guidance(net, 2, 0.5)(GIVEN, 5, LABELS).x0.isfinite().all()


def test_18_a_network_without_parameters_is_asked_in_the_precision_of_the_state():
    far = Denoiser(Far(), SCHEDULE, "x0", shape=(1, 8, 8))
    far(GIVEN.double(), 5)
    assert far.model.asked == torch.float64
