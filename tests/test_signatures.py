"""The calls that courses, scripts and other modules rely on: names, order, defaults, and what comes back."""
import inspect

import pytest
import torch
from torch import nn

from ddpm_course import ddim, ddpm, solvers
from ddpm_course.ddim import ddim_invert
from ddpm_course.evaluation import (DigitFeatures, all_scores, copied, frechet_distance, kernel_distance,
                                    nearest_neighbours, precision_recall, standard_error)
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import Denoised, Gaussian, NoiseSchedule, linear_beta_schedule
from ddpm_course.guidance import with_guidance
from ddpm_course.likelihood import bits_per_dim, vlb_terms
from ddpm_course.objective import Denoiser, diffusion_loss, loss_weight
from ddpm_course.schedules import (cosine_beta_schedule, exponential_beta_schedule, make_schedule,
                                   sigmoid_beta_schedule, time_pairs)

SCHEDULE = NoiseSchedule(linear_beta_schedule())
SHAPE = (1, 4, 4)
X0, T = torch.zeros(2, *SHAPE), torch.tensor([3, 999])


class Zero(nn.Module):
    def forward(self, x, t, y=None):
        return torch.zeros_like(x)


DENOISER = Denoiser(Zero(), SCHEDULE, "eps", shape=SHAPE)


def signature(function):
    "The parameters as they are written, without types."
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    return str(inspect.Signature(parameters))


@pytest.mark.parametrize("function, written", [
    (linear_beta_schedule, "(T=1000, start=0.0001, end=0.02)"),
    (NoiseSchedule, "(betas)"),
    (NoiseSchedule.q_step, "(self, x, t, *, generator=None)"),
    (NoiseSchedule.q_sample, "(self, x0, t, noise=None, *, generator=None)"),
    (NoiseSchedule.q_posterior, "(self, x0, x_t, t)"),
    (GaussianMixture, "(means, covariances=1.0, weights=None)"),
    (IdealDenoiser, "(mixture, schedule, *, shape=None)"),
    (Denoiser, "(model, schedule, prediction='eps', *, shape, clip=(-1.0, 1.0), variance='small', classes=None)"),
    (loss_weight, "(schedule, t, prediction, weighting, gamma=5.0)"),
    (diffusion_loss, "(denoiser, x0, t, noise, *, y=None, weighting='simple', gamma=5.0)"),
    (cosine_beta_schedule, "(T=1000, s=0.008, max_beta=0.999)"),
    (sigmoid_beta_schedule, "(T=1000, start=-3.0, end=3.0, tau=1.0, max_beta=0.999)"),
    (exponential_beta_schedule, "(T=1000, start=0.0001, end=0.02)"),
    (make_schedule, "(name, T=1000, zero_terminal_snr=False)"),
    (time_pairs, "(T, steps, spacing='trailing', *, schedule=None)"),
    (ddim_invert, "(denoiser, x0, *, steps=None, progress=True, **options)"),
    (with_guidance, "(denoiser, scale, rescale=0.0)"),
    (frechet_distance, "(features_a, features_b)"),
    (kernel_distance, "(features_a, features_b)"),
    (precision_recall, "(real, generated, k=3)"),
    (standard_error, "(score, *sets, draws=40, seed=0)"),
    (all_scores, "(real, generated, *, draws=20, seed=0)"),
    (nearest_neighbours, "(queries, references)"),
    (copied, "(generated, held_out, training)"),
    (DigitFeatures, "(device='cpu')"),
    (DigitFeatures.features, "(self, images)"),
    (DigitFeatures.confidence, "(self, images)"),
    (ddpm.Sampling, "(denoiser, noise_or_n=None, *, steps=None, spacing='trailing', pairs=None, start=None, y=None, "
                    "seed=None, seeds=None, generator=None, clip='denoiser', progress=False)"),
    *((getattr(module, f"{name}_sample"), "(denoiser, noise_or_n=None, *, steps=None, progress=True, **options)")
      for module, name in ((ddpm, "ddpm"), (ddim, "ddim"), (solvers, "heun"), (solvers, "plms"), (solvers, "dpmpp"))),
])
def test_it_is_called_as_it_always_was(function, written):
    assert signature(function) == written


def test_a_schedule_and_its_distributions():
    for name in ("betas", "alphas", "alphas_cumprod", "posterior_variance"):
        assert getattr(SCHEDULE, name).shape == (1000,) and getattr(SCHEDULE, name).dtype == torch.float32
    assert SCHEDULE.num_timesteps == 1000 and SCHEDULE.alpha_bar(-1) == 1 and SCHEDULE.snr(T).shape == (2,)
    assert SCHEDULE.q_sample(X0, T, noise=X0).shape == SCHEDULE.q_step(X0, T).shape == X0.shape
    posterior = SCHEDULE.q_posterior(X0, X0, T)
    assert isinstance(posterior, Gaussian) and posterior.mean.shape == X0.shape
    assert Denoised._fields == ("x0", "eps")


def test_an_exact_world():
    world = GaussianMixture([[0.0, 1.0], [1.0, 0.0]], 0.1, [0.5, 0.5])
    assert world.sample(3).shape == (3, 2) and world.at(SCHEDULE, 5).log_prob(torch.zeros(3, 2)).shape == (3,)


@pytest.mark.parametrize("denoiser", [DENOISER, IdealDenoiser(GaussianMixture([[0.0] * 16]), SCHEDULE, shape=SHAPE),
                                      with_guidance(DENOISER, 2.0, 0.5)], ids=["network", "ideal", "guided"])
def test_a_denoiser_is_one_seam(denoiser):
    assert denoiser.schedule is SCHEDULE and denoiser.shape == SHAPE and denoiser.clip in (None, (-1.0, 1.0))
    assert denoiser.num_labels in (None, 1)
    x0, eps = denoiser(X0, 5, torch.zeros(2, dtype=torch.int64), x0_prev=None)
    assert x0.shape == eps.shape == X0.shape


@pytest.mark.parametrize("module, name", [(ddpm, "ddpm"), (ddim, "ddim"), (solvers, "heun"), (solvers, "plms"),
                                          (solvers, "dpmpp")])
def test_a_sampler_takes_the_frame_and_gives_images_or_steps(module, name):
    own = {"ddpm": {"variance": "large"}, "ddim": {"eta": 0.0}}.get(name, {})
    frame = dict(pairs=[(900, 5), (5, -1)], start=None, y=None, seed=None, seeds=[1, 2], generator=None,
                 clip="denoiser", **own)
    images = getattr(module, f"{name}_sample")(DENOISER, 2, steps=2, progress=False, **frame)
    steps = list(getattr(module, f"{name}_steps")(DENOISER, 2, **frame))
    assert images.shape == X0.shape and torch.equal(images, steps[-1].x0) and steps[0]._fields == ("t", "x_t", "x0")


def test_losses_and_bounds():
    assert diffusion_loss(DENOISER, X0, T, X0, y=None, weighting="snr", gamma=5.0).shape == (2,)
    terms = vlb_terms(DENOISER, X0, variance="large", decoder="gaussian", levels=[3, 5])
    assert terms.L_T.shape == terms.L_0.shape == (2,) and terms.L_t.shape == (2, 2)
    assert bits_per_dim(DENOISER, X0, levels=3, decoder="gaussian").shape == (2,)
    assert ddim_invert(DENOISER, X0, steps=2, progress=False).shape == X0.shape
