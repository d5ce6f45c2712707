"""Scores of samples: known answers, what must raise them, and what is refused."""
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddpm_course import evaluation
from ddpm_course.data import load_digits, load_emoji, to_model_range
from ddpm_course.evaluation import (
    SCORES,
    DigitFeatures,
    Score,
    all_scores,
    copied,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
    standard_error,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(x, mean, covariance):
    "The rows of `x`, moved so that their own mean and covariance are exactly these."
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), (x - x.mean(0)).T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def covariance(d, seed):
    x = normal(d, d, seed=seed)
    return x @ x.T + 0.1 * torch.eye(d, dtype=torch.float64)


# ---- known answers


def test_the_distance_of_gaussians_with_known_parameters():
    "Same axes for both, so that the distance is that of the standard deviations along each, one by one."
    axes = torch.linalg.qr(normal(3, 3, seed=5)).Q
    variances = torch.tensor([[4.0, 1.0, 0.25], [1.0, 9.0, 0.25]], dtype=torch.float64)
    means = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    covariances = [axes @ v.diag() @ axes.T for v in variances]
    expected = 5 + (2 - 1) ** 2 + (1 - 3) ** 2
    assert gaussian_distance(means[0], covariances[0], means[1], covariances[1]) == pytest.approx(expected, abs=1e-6)
    sets = [with_moments(normal(n, 3, seed=n), m, c) for n, m, c in zip((50, 80), means, covariances)]
    assert frechet_distance(*sets) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(*[x.float() for x in sets]) == pytest.approx(expected, abs=1e-4)


def test_the_distance_is_that_of_another_formula():
    "scipy's root of the product of both covariances, as other implementations have it."
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    for seed in range(5):
        a, b = (normal(200, 6, seed=seed + i) @ covariance(6, seed + 10 + i) + i for i in range(2))
        product = np.cov(a.numpy(), rowvar=False) @ np.cov(b.numpy(), rowvar=False)
        expected = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * np.trace(
            sqrtm(product)).real
        assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-4)


def test_the_distance_of_a_set_to_itself_is_0_and_order_does_not_matter():
    a, b = normal(100, 4), 2 * normal(80, 4, seed=1) + 1
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_features_that_never_vary_are_no_obstacle():
    a, b = normal(50, 3), normal(50, 3, seed=1)
    a[:, 2], b[:, 2] = 1.0, 3.0
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a[:, :2], b[:, :2]) + 4, rel=1e-6)


def test_the_kernel_distance_has_mean_0_where_both_sets_are_drawn_alike():
    draws = torch.tensor([kernel_distance(normal(30, 5, seed=2 * i), normal(20, 5, seed=2 * i + 1))
                          for i in range(100)])
    assert abs(draws.mean()) < 3 * draws.std() / 10
    assert draws.min() < 0 < draws.max()


def test_the_kernel_distance_of_a_few_points_is_the_sum_over_pairs():
    a, b = normal(4, 2), normal(3, 2, seed=1) + 1
    k = lambda x, y: float((x @ y) / 2 + 1) ** 3
    pairs = lambda u, v: [k(x, y) for i, x in enumerate(u) for j, y in enumerate(v) if u is not v or i != j]
    expected = sum(pairs(a, a)) / 12 + sum(pairs(b, b)) / 6 - 2 * sum(pairs(a, b)) / 12
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_of_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])       # k = 1: balls of 1, 1, 1 and 8
    made = torch.tensor([[0.5], [0.6], [9.0], [30.0]])       # balls of 0.1, 0.1, 8.4 and 21
    found = precision_recall(real, made, k=1)
    assert found.precision == 3 / 4                          # all but 30
    assert found.recall == 3 / 4                             # 1, 2 and 10 lie in the ball around 9, 0 in none
    assert found.density == (2 + 2 + 1 + 0) / 4              # 0.5 and 0.6 lie in the balls of 0 and 1; 9 in that of 10
    assert found.coverage == 3 / 4                           # the ball of 2 holds none


def test_precision_is_lost_by_bad_samples_and_recall_by_missing_ones():
    real, other = normal(300, 2), normal(300, 2, seed=1)
    wide = normal(900, 2, seed=2)
    right_half = wide[wide[:, 0] > 0][:300]
    alike, spoilt, missing = (precision_recall(real, x) for x in (other, other + 5 * (other > 1), right_half))
    assert spoilt.precision < alike.precision - 0.1 and abs(spoilt.recall - alike.recall) < 0.3
    assert missing.recall < alike.recall - 0.3 and missing.precision > alike.precision - 0.1
    assert missing.coverage < alike.coverage - 0.2


def test_the_nearest_neighbour_is_found_whatever_the_number_of_queries():
    queries, known = normal(1203, 2, 3), normal(40, 2, 3, seed=1)
    distance, index = nearest_neighbours(queries, known)
    assert distance.shape == index.shape == (1203,) and index.dtype == torch.int64
    i = 1100
    by_hand = (queries[i] - known).square().sum((1, 2)).sqrt()
    assert index[i] == by_hand.argmin() and distance[i] == pytest.approx(by_hand.min().item(), rel=1e-5)


def test_copies_are_found_and_new_draws_are_not():
    training, held_out = normal(300, 5), normal(300, 5, seed=1)
    share, error = copied(training[:100], held_out, training)
    assert share == 1 and error == 0
    assert copied(training[:100], training[100:], training) == (0.5, 0.0)  # both lie at distance 0
    share, error = copied(normal(300, 5, seed=2), held_out, training)
    assert abs(share - 0.5) < 3 * error and 0.01 < error < 0.05


# ---- standard errors


def test_halves_give_the_standard_error_of_a_mean():
    x = normal(400, 1, seed=3)
    found = standard_error(lambda x: x.mean().item(), x, draws=4000)
    assert found == pytest.approx(x.std().item() / 20, rel=4 / math.sqrt(2 * 4000))


def test_several_scores_get_an_error_each_and_the_seed_decides():
    sets = normal(100, 2), normal(100, 2, seed=1)
    several = lambda a, b: (a.mean().item(), b.std().item())
    errors = standard_error(several, *sets, seed=1)
    assert len(errors) == 2 and errors == standard_error(several, *sets, seed=1)
    assert errors != standard_error(several, *sets, seed=2)
    assert errors[1] == pytest.approx(standard_error(lambda a, b: b.std().item(), *sets, seed=1))


def test_all_scores_come_with_errors():
    found = all_scores(normal(200, 3), normal(200, 3, seed=1) + 1, draws=5)
    assert tuple(found) == SCORES and all(isinstance(each, Score) and each.error > 0 for each in found.values())
    assert found["frechet"].value == frechet_distance(normal(200, 3), normal(200, 3, seed=1) + 1)
    assert found["recall"].value == precision_recall(normal(200, 3), normal(200, 3, seed=1) + 1).recall
    low, high = Score(2.0, 0.5).interval
    assert (low, high) == (2 - 0.98, 2 + 0.98) and str(Score(2.0, 0.5)) == "2 ± 0.98"


# ---- the network that judges digits


@pytest.fixture(scope="module")
def judge():
    return DigitFeatures()


@pytest.fixture(scope="module")
def digits():
    return load_digits("test").batch(torch.arange(2000))


def test_the_judge_knows_digits(judge, digits):
    images, labels = digits
    confidence, digit = judge.confidence(images)
    assert digit.eq(labels).double().mean() > 0.985 and confidence.min() > 0.1 and confidence.max() <= 1
    assert judge.features(images[:3]).shape == (3, 64) and judge.features(images[:3]).dtype == torch.float32


def test_the_judge_says_who_it_is_and_how_good(judge):
    assert str(judge) == repr(judge) == f"digits-1 (sha256 {evaluation.DIGITS_1[:8]})"
    assert judge.facts["accuracy"] >= 0.99 and judge.facts["judged on"] == "MNIST, 10,000 test images"


def test_the_distances_are_those_of_torchmetrics(judge):
    "The same images through the same features, the sets of 400 as they are: half of one is mirrored."
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance

    class Features(torch.nn.Module):
        num_features = 64

        def forward(self, images):
            return judge.features(to_model_range(images))

    real, made = load_digits("test").images[:400], load_digits("train").images[:400]
    made = torch.cat([made[:200], made[200:].flip(-1)])
    theirs = (fid(Features(), input_img_size=(1, 28, 28)).set_dtype(torch.float64),
              kid(Features(), subsets=1, subset_size=400))
    for metric in theirs:
        metric.update(real, real=True)
        metric.update(made, real=False)
    a, b = (judge.features(to_model_range(images)) for images in (real, made))
    assert frechet_distance(a, b) == pytest.approx(theirs[0].compute().item(), rel=1e-6)
    assert kernel_distance(a, b) == pytest.approx(theirs[1].compute()[0].item(), rel=1e-5)


def test_the_lines_for_inception_run_as_chapter_12_has_them(monkeypatch):
    "With the random weights of a network that has learned nothing, because the learned ones would be downloaded."
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    pytest.importorskip("torchmetrics.image.fid")
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda url, progress: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    notebook = json.loads((Path(__file__).parent.parent / "nbs/12_evaluation.ipynb").read_text(encoding="utf-8"))
    (text,) = (text for cell in notebook["cells"] if "torchmetrics" in (text := "".join(cell["source"])))
    (lines,) = re.findall("```python\n(.*?)```", text, re.S)
    emoji = load_emoji("test").batch(torch.arange(6))[0]
    given = {"torch": torch, "kernel_distance": kernel_distance, "images": emoji[:3], "real_features": normal(4, 2048)}
    exec(lines, given)
    assert given["features"].shape == (3, 2048) and given["features"].isfinite().all()


def test_an_image_is_judged_alike_alone_and_among_others(judge, digits):
    images = digits[0][:600]
    assert torch.allclose(judge.features(images)[550:551], judge.features(images[550:551]), atol=1e-4)
    assert torch.allclose(judge.features(images.double())[:5], judge.features(images[:5]))


def test_other_weights_under_the_same_name_are_refused(monkeypatch):
    monkeypatch.setattr(evaluation, "DIGITS_1", "0" * 64)
    with pytest.raises(ValueError, match="the digit features have the sha256 [0-9a-f]{64}, expected 0000"):
        DigitFeatures()


def blurred(x, strength):
    kernel = torch.exp(-torch.arange(-6.0, 7.0) ** 2 / (2 * max(strength, 1e-3) ** 2))
    kernel = kernel / kernel.sum()
    x = F.conv2d(F.pad(x, (6, 6, 0, 0), value=-1), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, 6, 6), value=-1), kernel.view(1, 1, -1, 1))


def noisy(x, strength):
    return (x + strength * normal(*x.shape, seed=7).float()).clamp(-1, 1)


def occluded(x, strength):
    x = x.clone()
    x[:, :, 14 - int(strength):14 + int(strength), 14 - int(strength):14 + int(strength)] = -1
    return x


def fewer_classes(images, labels, missing):
    return images[labels >= missing]


@pytest.mark.parametrize("damage, strengths", [(blurred, (0, 0.6, 1, 1.5, 2.5)), (noisy, (0, 0.1, 0.2, 0.4, 0.8)),
                                               (occluded, (0, 2, 4, 6, 8))])
def test_scores_rise_with_damage(judge, digits, damage, strengths):
    images = digits[0]
    real, other = judge.features(images[:1000]), images[1000:]
    made = [judge.features(damage(other, s)) for s in strengths]
    distances = [frechet_distance(real, x) for x in made]
    assert distances == sorted(distances) and distances[1] > 1.2 * distances[0]
    kernels = [kernel_distance(real, x) for x in made]  # three moments cannot order what hardly resembles digits
    assert kernels[:3] == sorted(kernels[:3]) and min(kernels[3:]) > kernels[2]
    recalls = [precision_recall(real, x).recall for x in made]
    assert recalls == sorted(recalls, reverse=True) and recalls[-1] < 0.1 < 0.8 < recalls[0]


def test_scores_rise_with_missing_classes(judge, digits):
    images, labels = digits
    real, made = judge.features(images[:1000]), judge.features(images[1000:])
    values = [frechet_distance(real, fewer_classes(made, labels[1000:], k)) for k in (0, 1, 3, 5, 8)]
    assert values == sorted(values)


# ---- bad input

SMALL, LARGE = torch.zeros(10, 16), normal(100, 16)


@pytest.mark.parametrize("call, words", [
    (lambda: frechet_distance(SMALL, LARGE), "features_a has 10 rows, expected more than its 16 dimensions; ke"),
    (lambda: frechet_distance(LARGE, LARGE[:16]), "features_b has 16 rows, expected more than its 16 dimensions"),
    (lambda: frechet_distance(LARGE, LARGE[:, :3]), r"features_b has shape \(100, 3\), expected \(m, 16\), as fea"),
    (lambda: frechet_distance(LARGE[:0], LARGE), r"features_a has shape \(0, 16\), expected 2 rows or more"),
    (lambda: frechet_distance(LARGE / 0, LARGE), "features_a hold NaN or infinite values, expected finite ones"),
    (lambda: frechet_distance(LARGE[0], LARGE), r"features_a has shape \(16,\), expected \(n, D\)"),
    (lambda: kernel_distance(LARGE, LARGE[:1]), r"features_b has shape \(1, 16\), expected 2 rows or more"),
    (lambda: kernel_distance(LARGE[:, :0], LARGE[:, :0]), r"features_a has shape \(100, 0\), expected"),
    (lambda: precision_recall(LARGE, LARGE[:50]), r"generated has shape \(50, 16\), expected \(the same 100, 16\)"),
    (lambda: precision_recall(LARGE[:3], LARGE[:3]), r"real has shape \(3, 16\), expected 4 rows or more"),
    (lambda: precision_recall(LARGE, LARGE, k=0), "k is 0, expected a whole number of 1 or more"),
    (lambda: standard_error(frechet_distance, LARGE, LARGE, draws=1), "draws is 1, expected a whole number of 2 or"),
    (lambda: nearest_neighbours(LARGE, LARGE[:, :3]), r"references has shape \(100, 3\), expected \(m, 16\)"),
    (lambda: nearest_neighbours(LARGE, LARGE[:0]), "queries hold 100 and references 0, expected one or more of each"),
    (lambda: nearest_neighbours(LARGE[:0], LARGE), "queries hold 0 and references 100, expected one or more of each"),
])
def test_what_no_score_can_be_made_of_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("change, words", [
    (lambda x: x[:0], "images is empty, expected one or more"),
    (lambda x: x[:, :, :20], r"images has shape \(4, 1, 20, 28\), expected \(B, 1, 28, 28\)"),
    (lambda x: x.repeat(1, 3, 1, 1), r"images has shape \(4, 3, 28, 28\), expected"),
    (lambda x: ((x + 1) * 127.5).to(torch.uint8), r"images are torch.uint8, expected floating point in"),
    (lambda x: (x + 1) * 127.5, "images hold values from 0 to 255, which seems to be 0 to 255; expected the range"),
    (lambda x: (x + 1) / 2, "images hold values from 0 to 1, which seems to be 0 to 1; expected the range"),
    (lambda x: x * 4, "images hold values from -4 to 4; expected the range"),
    (lambda x: torch.cat([x[:1] / 0, x[1:]]), "images hold NaN or infinite values in 1 of 4, expected numbers in"),
])
def test_images_that_the_judge_does_not_know_are_refused(judge, digits, change, words):
    for ask in (judge.features, judge.confidence):
        with pytest.raises(ValueError, match=words):
            ask(change(digits[0][:4]))
