"""The clock that tells a network the time: order, dtype, precision, conventions. Refusals: test_refusals.py."""
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_course.embedding import TimeEmbedding, timestep_embedding

TIMES = torch.tensor([0, 1, 17, 500, 999])


def number_by_number(t, dim, P, shift):
    half = dim // 2
    omega = [P ** (-i / (half - shift)) for i in range(half)]
    return [math.sin(t * w) for w in omega] + [math.cos(t * w) for w in omega]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dim, P", [(4, 10_000.0), (32, 10_000.0), (128, 10_000.0), (16, 100.0)])
def test_sines_then_cosines_at_both_sets_of_frequencies(dim, P, shift):
    expected = torch.tensor([number_by_number(t, dim, P, shift) for t in TIMES.tolist()])
    assert_close(timestep_embedding(TIMES, dim, P, freq_shift=shift), expected, rtol=0, atol=1e-4)


def test_a_resting_clock_shows_the_order_of_the_halves():
    assert timestep_embedding(TIMES, 6)[0].tolist() == [0, 0, 0, 1, 1, 1]
    for shift in (0, 1):
        flipped = timestep_embedding(TIMES, 16, freq_shift=shift, flip_sin_to_cos=True)
        assert flipped[0].tolist() == [1] * 8 + [0] * 8


def test_an_odd_number_is_filled_up_with_a_0():
    odd = timestep_embedding(TIMES, 7)
    assert odd.shape == (5, 7) and (odd[:, -1] == 0).all()
    assert_close(odd[:, :6], timestep_embedding(TIMES, 6))


def test_times_may_be_floating_point_and_all_embeddings_have_one_length():
    assert_close(timestep_embedding(TIMES, 8), timestep_embedding(TIMES.double(), 8))
    assert timestep_embedding(TIMES, 8).dtype == timestep_embedding(TIMES.double(), 8).dtype == torch.float32
    assert_close(timestep_embedding(torch.arange(1000), 128).norm(dim=1), torch.full((1000,), 8.0))  # sqrt(64)


def test_a_time_from_0_to_1_looks_like_a_single_step_until_it_is_multiplied_by_T():
    similar = lambda first, last: (timestep_embedding(torch.tensor([first, last]), 128)).prod(0).sum().item() / 64
    assert similar(0.0, 1.0) > 0.97 and similar(0, 1000) < 0.1
    assert similar(0.0, 1.0) == pytest.approx(similar(0, 1), abs=1e-6)
    in_steps = timestep_embedding(torch.linspace(0, 1, 11) * 1000, 128)
    assert_close(in_steps, timestep_embedding(torch.arange(0, 1001, 100), 128), rtol=0, atol=1e-4)


def test_exchanging_the_columns_of_the_first_layer_converts_its_weights():
    first, moved = nn.Linear(16, 5), nn.Linear(16, 5)
    moved.load_state_dict({"weight": first.weight.roll(8, dims=1), "bias": first.bias})
    cosines_first = timestep_embedding(TIMES, 16, flip_sin_to_cos=True)
    assert_close(moved(cosines_first), first(timestep_embedding(TIMES, 16)))


def test_the_size_of_the_network_of_the_paper():
    assert TimeEmbedding(32, 64)(TIMES).shape == (5, 64)
    assert sum(p.numel() for p in TimeEmbedding(128, 512).parameters()) == 328_704


def test_every_weight_can_learn():
    embed = TimeEmbedding(32, 64)
    embed(TIMES).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in embed.parameters())


def test_times_stay_apart_when_the_weights_are_in_half_precision():
    every = torch.arange(1000)
    assert len(every.bfloat16().unique()) == 507  # what a cast of the times themselves would leave
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        answers = TimeEmbedding(32, 64).bfloat16()(every)
    assert answers.dtype == torch.bfloat16 and len(answers.float().unique(dim=0)) > 990
