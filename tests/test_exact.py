"""The exact world where chapter 03 need not look: levels, labels, dtypes, shapes; torch's own densities; flat bells."""
import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from ddpm_course.exact import GaussianMixture, IdealDenoiser, step_back
from ddpm_course.forward import Denoised, NoiseSchedule, linear_beta_schedule

SCHEDULE = NoiseSchedule(linear_beta_schedule())
SHAPES = [[[0.08, 0.05], [0.05, 0.05]], [[0.03, -0.03], [-0.03, 0.08]], [[0.10, 0.0], [0.0, 0.01]]]
PLANE = GaussianMixture([[-0.8, -0.3], [0.7, -0.5], [0.1, 0.8]], SHAPES, [0.4, 0.4, 0.2])
IDEAL = IdealDenoiser(PLANE, SCHEDULE)
X = PLANE.at(SCHEDULE, 300).sample(6, generator=torch.Generator().manual_seed(0))


def test_a_level_for_each_sample_is_the_same_as_one_at_a_time():
    mixed = torch.tensor([-1, 0, 10, 300, 300, 999])
    each = [IDEAL(X[i : i + 1], int(t)) for i, t in enumerate(mixed)]
    assert_close(IDEAL(X, mixed), Denoised(*(torch.cat(parts) for parts in zip(*each))), rtol=1e-12, atol=1e-12)
    assert_close(IDEAL(X, torch.tensor(300)), IDEAL(X, 300), rtol=0, atol=0)
    assert IDEAL.x0_variance(X, mixed).shape == (6,)


def test_the_clean_image_is_its_own_best_guess():
    assert_close(IDEAL(X, -1), Denoised(X, torch.zeros_like(X)))
    assert (IDEAL.x0_variance(X, -1).abs() < 1e-12).all()


def test_without_signal_the_best_guess_is_the_mean_of_the_data():
    ends_in_noise = NoiseSchedule(torch.tensor([0.5, 1.0]))  # zero terminal SNR
    assert_close(IdealDenoiser(PLANE, ends_in_noise)(X, 1), Denoised(PLANE.moments()[0].expand(6, 2), X))


def test_a_label_names_the_bell():
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    for i in range(6):
        alone = IdealDenoiser(PLANE.component(int(y[i])), SCHEDULE)
        assert_close(IDEAL(X, 300, y).x0[i], alone(X, 300).x0[i])
        assert_close(IDEAL.x0_variance(X, 300, y)[i], alone.x0_variance(X, 300)[i])


def test_answers_have_the_precision_of_the_question_but_float32_at_least():
    for given, answered in ((torch.float64,) * 2, (torch.float32,) * 2, (torch.float16, torch.float32)):
        assert IDEAL(X.to(given), 300).x0.dtype == IDEAL(X.to(given), 300).eps.dtype == answered
    assert_close(IDEAL(X.float(), 300).eps, IDEAL(X, 300).eps.float(), rtol=1e-5, atol=1e-5)
    assert PLANE.log_prob(X.float()).dtype == IDEAL.x0_variance(X.float(), 300).dtype == torch.float64


def test_it_stands_in_for_a_trained_denoiser():
    assert IDEAL.shape == (2,) and IDEAL.clip is None and IDEAL.schedule is SCHEDULE and IDEAL.num_labels == 3
    assert_close(IDEAL(X, 300, x0_prev=X), IDEAL(X, 300), rtol=0, atol=0)
    as_image = IdealDenoiser(PLANE, SCHEDULE, shape=(1, 1, 2))
    assert_close(as_image(X.view(6, 1, 1, 2), 300).x0, IDEAL(X, 300).x0.view(6, 1, 1, 2))


def test_a_bell_is_the_normal_distribution_of_torch():
    assert_close(PLANE.covariances, torch.tensor(SHAPES, dtype=torch.float64))
    assert PLANE.dim == 2 and repr(PLANE) == "GaussianMixture(3 bells in 2 dimensions)"
    reference = MultivariateNormal(PLANE.means[1], PLANE.covariances[1])
    assert_close(PLANE.component(1).log_prob(X), reference.log_prob(X))
    assert_close(PLANE.component(1).moments(), (PLANE.means[1], PLANE.covariances[1]))


def test_three_dimensions_where_the_axes_are_not_symmetric():
    C = torch.tensor([[0.5, 0.3, 0.1], [0.3, 0.4, -0.1], [0.1, -0.1, 0.2]], dtype=torch.float64)
    solid = GaussianMixture([[0.1, -0.2, 0.3]], C[None])
    draws = solid.sample(50_000, generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(solid.axes, solid.axes.mT, atol=0.1)  # in the plane they may be equal
    assert_close(solid.log_prob(draws), MultivariateNormal(solid.means[0], C).log_prob(draws))
    assert_close(draws.T.cov(), C, rtol=0, atol=4.5 * 0.5 * (2 / 50_000) ** 0.5)  # 4.5 standard errors of the largest
    assert_close(solid.score(draws), -torch.linalg.solve(C, (draws - solid.means).T).T)


@pytest.mark.parametrize("answer", [
    lambda m: m.log_prob(X), lambda m: m.score(X), lambda m: m.covariances, lambda m: m.weights,
    lambda m: m.component(1).log_prob(X), lambda m: IdealDenoiser(m, SCHEDULE)(X, 300)])
def test_round_bells_are_those_of_their_matrices(answer):
    means, same = [[0.0, 1.0], [1.0, 0.0]], [[[0.1, 0.0], [0.0, 0.1]], [[0.2, 0.0], [0.0, 0.2]]]
    assert_close(answer(GaussianMixture(means, [0.1, 0.2])), answer(GaussianMixture(means, same)))


def test_weights_and_draws():
    equal = GaussianMixture([[0.0, 1.0], [1.0, 0.0]], [0.1, 0.2])
    assert_close(equal.weights, torch.tensor([0.5, 0.5], dtype=torch.float64))
    single = GaussianMixture([[0.0], [1.0]], 1.0, torch.tensor([0.1, 0.9]))  # weights in float32
    assert abs(single.weights.sum() - 1) < 1e-15
    one, other = (equal.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other) and one.shape == (5, 2)


def test_a_bell_that_is_flat():
    direction = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    flat = GaussianMixture([[0.0] * 3], direction.outer(direction)[None])
    assert (flat.variances[0] == 0).tolist() == [True, True, False]  # all draws on one line
    draws = flat.sample(9, generator=torch.Generator().manual_seed(4))
    assert draws.cross(direction[None], dim=1).abs().max() < 1e-12
    assert flat.at(SCHEDULE, 0).log_prob(draws + 0.1).isfinite().all()


def test_a_step_back_goes_one_level_by_default_and_all_the_way_to_the_best_guess():
    x_t = torch.tensor([0.2, 0.1], dtype=torch.float64)
    assert torch.equal(step_back(PLANE, SCHEDULE, 400, x_t).means, step_back(PLANE, SCHEDULE, 400, x_t, 399).means)
    assert_close(step_back(PLANE, SCHEDULE, 400, x_t, -1).moments()[0], IDEAL(x_t[None], 400).x0[0])
