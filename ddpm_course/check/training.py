"""Exercises of chapter 10."""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import small
from .exercise import Exercise
from .forward import _q_sample
from .objective import _loss, _loss_of


class _Line(nn.Module):
    "A network of three weights, whose gradients are known to be neither 0 nor equal."
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.4, 0.05, -0.1]))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.weights[0] * x_t + self.weights[1] * small.whole(t.float()) + self.weights[2]


def _watch(step: Callable, x0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor) -> dict | None:
    "Two updates of a small network that still holds a gradient from elsewhere."
    model = _Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    model.weights.grad = torch.tensor([3.0, -2.0, 1.0])
    before, losses = model.weights.detach().clone(), []
    for _ in range(2):
        losses.append(step(model, optimizer, x0, t, noise, alpha_bar))
    after = model.weights.detach()
    if losses[0] in (None, ...) and torch.equal(before, after):
        return None
    return {"the first loss": losses[0], "the second loss": losses[1], "the weights after two updates": after,
            "the type of what is returned": type(losses[0]).__name__}


def _step(*order: str, loss: Callable = _loss, returned: Callable = Tensor.item) -> Callable:
    "An update that does the things named in `order`, one after the other."
    def train_step(model, optimizer, x0, t, noise, alpha_bar):
        error = loss(model, x0, t, noise, alpha_bar)
        for what in order:
            {"zero": optimizer.zero_grad, "backward": error.backward, "step": optimizer.step}[what]()
        return returned(error)
    return train_step


def _mixing(mix: Callable) -> Callable:
    "A loss whose noised image is `mix(x0, t, noise, alpha_bar)`."
    return lambda model, x0, t, noise, ab: (model(mix(x0, t, noise, ab), t) - noise).square().mean()


def _by(factors: Callable) -> Callable:
    "A loss whose noised image has the two factors `factors(a)`, each (B,) or a shape that torch stretches."
    def mix(x0, t, noise, ab):
        signal, sigma = factors(ab[t])
        return signal * x0 + sigma * noise
    return _mixing(mix)


RIGHT = ("zero", "backward", "step")

train_step = Exercise(
    "train_step", "10", "(model, optimizer, x0, t, noise, alpha_bar), which updates the weights and returns the loss",
    reference=_step(*RIGHT),
    cases=lambda: [(x0, t, noise, small.alpha_bar()) for x0, t, noise in small.noised()],
    probe=_watch,
    mistakes={
        "the gradients are never zeroed, so that those of all earlier updates are added up": _step("backward", "step"),
        "the gradients are zeroed after the update; what a gradient held before the first one still counts. Zero first":
            _step("backward", "step", "zero"),
        "the weights do not move: backward() or step() is missing, or the gradients are zeroed between the two":
            (_step("zero", "backward"), _step("zero", "step"), _step("backward", "zero", "step"), _step()),
        "step() comes before backward(), and moves the weights by the gradient of the time before":
            _step("step", "zero", "backward"),
        "the loss is returned as a tensor, which keeps all that its gradient needs in memory; return loss.item()":
            (_step(*RIGHT, returned=lambda error: error), _step(*RIGHT, returned=Tensor.detach)),
        "the network is given the clean image; expected the noised one, x_t":
            _step(*RIGHT, loss=lambda model, x0, t, noise, ab: (model(x0, t) - noise).square().mean()),
        "the factors are variances; the image is multiplied by sqrt(alpha_bar) and the noise by sqrt(1 - alpha_bar)":
            _step(*RIGHT, loss=_by(lambda a: (small.whole(a), small.whole(1 - a)))),
        "the noise is multiplied by its variance 1 - alpha_bar; expected the standard deviation, its square root":
            _step(*RIGHT, loss=_by(lambda a: (small.whole(a).sqrt(), small.whole(1 - a)))),
        "the image is multiplied by alpha_bar, which is a factor on its power: a square root is missing":
            _step(*RIGHT, loss=_by(lambda a: (small.whole(a), small.whole(1 - a).sqrt()))),
        "the two factors are exchanged: at the first level nearly all should be image":
            _step(*RIGHT, loss=_by(lambda a: (small.whole(1 - a).sqrt(), small.whole(a).sqrt()))),
        "the factors (B,) meet images (B, C, H, W): torch lines them up with the last axis, not with the batch; "
        "a .view(-1, 1, 1, 1) is missing": _step(*RIGHT, loss=_by(lambda a: (a.sqrt(), (1 - a).sqrt()))),
        "the network is told t + 1; code indices go from 0, for image and network alike":
            _step(*RIGHT, loss=lambda model, x0, t, noise, ab:
                  (model(_q_sample(x0, t, noise, ab), t + 1) - noise).square().mean()),
        "the image is noised to one level lower than the network is told: alpha_bar[t], not [t - 1], is that of t":
            (_step(*RIGHT, loss=_mixing(lambda x0, t, noise, ab: _q_sample(x0, t - 1, noise, ab))),
             _step(*RIGHT, loss=_mixing(lambda x0, t, noise, ab: _q_sample(x0, t, noise, ab.roll(1).index_fill(
                 0, torch.tensor(0), 1.0))))),
        "it draws noise of its own; mix in the noise that it is given":
            _step(*RIGHT, loss=lambda model, x0, t, noise, ab: _loss(model, x0, t, torch.randn_like(x0), ab)),
        "the answer is compared with x_t; the noise inside it is asked for":
            _step(*RIGHT, loss=_loss_of(lambda answer, x0, x_t, noise: (answer - x_t).square().mean())),
        "this is the mean of the absolute errors; expected that of their squares":
            _step(*RIGHT, loss=_loss_of(lambda answer, x0, x_t, noise: (answer - noise).abs().mean())),
        "the answer is compared with x0; this network estimates the noise":
            _step(*RIGHT, loss=_loss_of(lambda answer, x0, x_t, noise: (answer - x0).square().mean())),
        "the answer is compared with v; this network estimates the noise":
            _step(*RIGHT, loss=lambda model, x0, t, noise, ab:
                  (model(_q_sample(x0, t, noise, ab), t) - _q_sample(noise, t, -x0, ab)).square().mean()),
        "the squares are added up; expected their mean, or the learning rate means something else for every size":
            (_step(*RIGHT, loss=_loss_of(lambda answer, x0, x_t, noise: (answer - noise).square().sum())),
             _step(*RIGHT, loss=_loss_of(lambda answer, x0, x_t, noise:
                                         (answer - noise).square().flatten(1).sum(1).mean()))),
        "the weights move uphill: a sign is wrong":
            (_step(*RIGHT, loss=lambda *given: -_loss(*given)),
             _step(*RIGHT, loss=lambda *given: -_loss(*given), returned=lambda error: -error.item()))},
    compared="two updates of a small network: both losses, and the weights afterwards")
