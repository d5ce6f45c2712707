"""The bound in bits: clipping, labels, modes, generators and the levels that are visited."""
import pytest
import torch
from torch import nn

from ddpm_course.data import load_digits
from ddpm_course.exact import GaussianMixture, IdealDenoiser
from ddpm_course.forward import NoiseSchedule, linear_beta_schedule
from ddpm_course.likelihood import _cells, bits_per_dim, vlb_terms
from ddpm_course.objective import Denoiser

IMAGES = load_digits("test").batch(torch.arange(8))[0]
PIXEL = GaussianMixture([[-0.6], [0.8]], [0.02, 0.1], [0.4, 0.6])


class Answers(nn.Module):
    "Says the same for every pixel: `value`, plus a tenth of the label where there is one, less what dropout takes."
    def __init__(self, value):
        super().__init__()
        self.value, self.drop = value, nn.Dropout(0.5)

    def forward(self, x, t, y=None):
        return self.drop(torch.full_like(x, self.value) + (0 if y is None else y[:, None, None, None] / 10))


def denoiser_saying(value):
    return Denoiser(Answers(value), NoiseSchedule(linear_beta_schedule(25)), "x0", shape=(1, 28, 28))


def total(value, **options):
    terms = vlb_terms(denoiser_saying(value).eval(), IMAGES, generator=torch.Generator().manual_seed(0), **options)
    return sum(term.sum() for term in terms)


def test_the_guess_is_clipped_as_samplers_do():
    assert total(3.0) == total(1.0) == total(3.0, clip=(-1, 1)) < total(3.0, clip=None)


def test_labels_reach_the_network():
    assert total(0.5, y=torch.full((8,), 3)) == total(0.8) != total(0.5)


def test_dropout_is_off_and_the_mode_is_put_back():
    training = denoiser_saying(0.5)
    once, again = (bits_per_dim(training, IMAGES, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(once, again) and training.training


def test_the_generator_decides():
    quick = IdealDenoiser(PIXEL, NoiseSchedule(linear_beta_schedule(25)))
    first, same, other = (bits_per_dim(quick, torch.zeros(5, 1), decoder="gaussian",
                                       generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_schedule_of_one_step():
    terms = vlb_terms(IdealDenoiser(PIXEL, NoiseSchedule(torch.tensor([0.5]))), torch.zeros(3, 1), decoder="gaussian")
    assert terms.L_t.shape == (3, 0) and torch.isfinite(terms.L_0).all()


@pytest.mark.parametrize("levels", [None, 1, 7, 40, 400, 5000])
def test_the_cells_cover_every_level_once(levels):
    first, size = _cells(1000, levels)
    assert size.sum() == 999 and first[0] == 1 and torch.equal(first[1:], first[:-1] + size[:-1])
    assert len(first) == (999 if levels in (None, 5000) else len(first)) and len(first) <= (levels or 999)
