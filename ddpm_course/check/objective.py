"""Exercises of chapter 04."""
from collections.abc import Callable

import torch
from torch import Tensor

from . import small
from .exercise import Exercise
from .forward import _q_sample


def _loss(model: Callable, x0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    return (model(_q_sample(x0, t, noise, alpha_bar), t) - noise).square().mean()


def _loss_of(error: Callable) -> Callable:
    "A loss from `error(answer, x0, x_t, noise)`."
    def wrong(model, x0, t, noise, alpha_bar):
        x_t = _q_sample(x0, t, noise, alpha_bar)
        return error(model(x_t, t), x0, x_t, noise)
    return wrong


def _noised_by(mix: Callable) -> Callable:
    "A loss with the noised image `mix(x0, noise, a)`, where `a` is the alpha_bar of each image, (B,)."
    return lambda model, x0, t, noise, alpha_bar: (model(mix(x0, noise, alpha_bar[t]), t) - noise).square().mean()


loss = Exercise(
    "loss", "04", "(model, x0, t, noise, alpha_bar), which returns one number",
    reference=_loss,
    cases=lambda: [(small.network, x0, t, noise, small.alpha_bar()) for x0, t, noise in small.noised()],
    mistakes={
        "the network is given the clean image; expected the noised one, x_t":
            lambda model, x0, t, noise, ab: (model(x0, t) - noise).square().mean(),
        "the answer is compared with x0; this network estimates the noise": _loss_of(lambda out, x0, x_t, noise:
                                                                                    (out - x0).square().mean()),
        "the answer is compared with x_t; the noise inside it is asked for": _loss_of(lambda out, x0, x_t, noise:
                                                                                     (out - x_t).square().mean()),
        "the squares are added up; expected their mean, which does not grow with the size of a batch":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).square().sum()),
        "the mean is over the batch only, and pixels are added up; expected the mean over everything":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).square().flatten(1).sum(1).mean()),
        "one loss for each image; expected their mean, one number":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).square().flatten(1).mean(1)),
        "one squared error for each pixel; expected their mean, one number":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).square()),
        "this is the mean of the absolute errors; expected that of their squares":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).abs().mean()),
        "a square root is taken at the end; the loss is the mean square itself":
            _loss_of(lambda out, x0, x_t, noise: (out - noise).square().mean().sqrt()),
        "the image is noised to one level lower than the network is told":
            lambda model, x0, t, noise, ab: (model(_q_sample(x0, t, noise, torch.cat([ab.new_ones(1), ab])), t)
                                             - noise).square().mean(),
        "the factors of the noised image are variances; take square roots":
            _noised_by(lambda x0, noise, a: small.whole(a) * x0 + small.whole(1 - a) * noise),
        "the noise is multiplied by its variance 1 - alpha_bar; expected its root, the standard deviation":
            _noised_by(lambda x0, noise, a: small.whole(a).sqrt() * x0 + small.whole(1 - a) * noise),
        "the image is multiplied by alpha_bar, which is a factor on its power: a square root is missing":
            _noised_by(lambda x0, noise, a: small.whole(a) * x0 + small.whole(1 - a).sqrt() * noise),
        "the factors (B,) meet images (B, C, H, W): torch lines them up with the width, not with the batch; "
        "alpha_bar[t].view(-1, 1, 1, 1) lines up":
            _noised_by(lambda x0, noise, a: a.sqrt() * x0 + (1 - a).sqrt() * noise)},
    compared="the mean square of (4.10) on two batches, with a network whose answer is known")


def _weight(alpha_bar: Tensor, t: Tensor, prediction: str) -> Tensor:
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    return snr.clamp(max=5) / {"eps": snr, "x0": 1.0, "v": snr + 1}[prediction]


def _weight_of(rule: Callable) -> Callable:
    "A weight from `rule(snr, prediction)`."
    return lambda alpha_bar, t, prediction: rule(alpha_bar[t] / (1 - alpha_bar[t]), prediction)


def _for_x0(limited: Callable) -> Callable:
    "The weights for eps, x0 and v that follow from the weight of x0, `limited(snr)`."
    return _weight_of(lambda snr, prediction: limited(snr) / {"eps": snr, "x0": 1.0, "v": snr + 1}[prediction])


def _carried(**factors: Callable) -> Callable:
    "min(snr, 5) times `factors[prediction](snr)`, and times the right factor where none is given."
    right = {"eps": lambda snr: 1 / snr, "x0": torch.ones_like, "v": lambda snr: 1 / (snr + 1)}
    return _weight_of(lambda snr, prediction: snr.clamp(max=5) * (right | factors)[prediction](snr))


snr_weight = Exercise(
    "snr_weight", "04", '(alpha_bar, t, prediction), with prediction "eps", "x0" or "v" and gamma = 5',
    reference=_weight,
    cases=lambda: [(small.alpha_bar(), torch.arange(12), ("eps", "x0", "v"))],
    probe=lambda function, alpha_bar, t, predictions: {f"predicting {each}": function(alpha_bar, t, each)
                                                       for each in predictions},
    mistakes={
        "the clamp is the wrong way round: levels with little noise should count less, so snr is cut off above gamma":
            _for_x0(lambda snr: snr.clamp(min=5)),
        "the fraction is upside down: for eps it is min(snr, gamma) / snr, which is 1 at most": (
            _for_x0(lambda snr: snr**2 / snr.clamp(max=5)), _carried(eps=lambda snr: snr / snr.clamp(max=5)**2),
            _weight_of(lambda snr, p: {"eps": snr, "x0": 1.0, "v": snr + 1}[p] / snr.clamp(max=5))),
        "this is the weight for x0 whatever is predicted; an error of eps or v is a different error of x0":
            _weight_of(lambda snr, prediction: snr.clamp(max=5)),
        "this is the weight for eps whatever is predicted; for x0 it is min(snr, gamma) itself":
            _weight_of(lambda snr, prediction: snr.clamp(max=5) / snr),
        "there is no limit here: this is snr weighting, and gamma never enters": _for_x0(lambda snr: snr),
        "the weight for v is divided by snr, as that for eps is; an error of v is one of x0 over sqrt(1 - alpha_bar)":
            _carried(v=lambda snr: 1 / snr),
        "the weight for v has a factor snr too many: snr / (snr + 1) carries a weight over from eps; from x0 divide by "
        "snr + 1":
            _carried(v=lambda snr: snr / (snr + 1)),
        "the weight for v is divided by snr / (snr + 1); a weight of x0 is divided by snr + 1":
            _carried(v=lambda snr: (snr + 1) / snr),
        "for v the limit is set on snr + 1; it is set on snr, and the result divided by snr + 1":
            _carried(v=lambda snr: (snr + 1).clamp(max=5) / (snr + 1) / snr.clamp(max=5)),
        "snr is the ratio of standard deviations here; it is that of powers, alpha_bar / (1 - alpha_bar)":
            lambda ab, t, p: _weight(ab.sqrt() / (ab.sqrt() + (1 - ab).sqrt()), t, p),
        "snr is upside down: signal over noise, alpha_bar / (1 - alpha_bar)": lambda ab, t, p: _weight(1 - ab, t, p),
        "the weights for eps and v are multiplied by snr and snr + 1; both are divided":
            _carried(eps=lambda snr: snr, v=lambda snr: snr + 1),
        "the weight for eps is multiplied by snr; it is divided": _carried(eps=lambda snr: snr),
        "the weight for v is multiplied by snr + 1; it is divided": _carried(v=lambda snr: snr + 1)},
    compared="min(snr, 5) carried over to eps, x0 and v, at 12 levels on both sides of the limit")
