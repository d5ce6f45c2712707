"""Exercises of chapter 07."""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import small
from .exercise import Exercise


class _Block(nn.Module):
    "A residual block with parts that can be left out or exchanged."
    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, *, groups: int = 32, zero: bool = True,
                 shortcut: bool = True, match: bool = True, time: str = "channels", order: str = "norm first"):
        super().__init__()
        self.time, self.order, self.add = time, order, shortcut
        normed = (out_channels if order == "conv first" else in_channels, out_channels)
        self.norms = nn.ModuleList(nn.GroupNorm(groups or channels, channels) for channels in normed)
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 3, padding=1) for c in (in_channels, out_channels))
        self.project = nn.Linear(emb_dim, out_channels)
        same = in_channels == out_channels or not match
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        if zero:
            nn.init.zeros_(self.convs[1].weight), nn.init.zeros_(self.convs[1].bias)

    def half(self, i: int, h: Tensor) -> Tensor:
        norm, conv = self.norms[i], self.convs[i]
        return {"norm first": lambda: conv(F.silu(norm(h))), "activation first": lambda: conv(norm(F.silu(h))),
                "conv first": lambda: F.silu(norm(conv(h))), "no norm": lambda: conv(F.silu(h))}[self.order]()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h, shift = self.half(0, x), self.project(emb)
        shift = {"channels": shift[:, :, None, None], "width": shift, "nowhere": 0}[self.time]
        h = self.half(1, h + shift)
        return self.shortcut(x) + h if self.add else h


def _with(**parts) -> Callable:
    return lambda in_channels, out_channels, emb_dim: _Block(in_channels, out_channels, emb_dim, **parts)


@torch.no_grad()
def _properties(block: Callable, in_channels: int, out_channels: int) -> dict | None:
    """
    What can be seen of a block from outside: first fresh, then with other weights everywhere.

    There are as many images as rows, and as many columns as channels, so that an embedding that torch stretches along
    the wrong dimensions gives an answer, and a wrong one.
    """
    made = block(in_channels, out_channels, 16)
    if made in (None, ...):
        return None
    made.eval()
    x, y = (small.normal(4, in_channels, 4, 64, seed=i) for i in range(2))
    emb, other = (small.normal(4, 16, seed=i) for i in range(2, 4))
    fresh = made(x, emb)
    if fresh is None:
        return None
    seen = {"the shape of the result": tuple(fresh.shape),
            "a fresh block gives its shortcut alone": _close(made(x + y, emb) + made(0 * x, emb), fresh + made(y, emb))}
    if in_channels == out_channels:
        seen["a fresh block gives what it was given"] = _close(fresh, x)
    for weights in made.parameters():
        weights += 0.1 * torch.randn(weights.shape)
    result, others = made(x, emb), torch.cat([emb[:1], other[1:]])
    seen["the result depends on the embedding"] = not _close(made(x, other), result)
    seen["an image depends on its own embedding alone"] = _close(made(x, others)[:1], result[:1])
    if in_channels == out_channels:
        seen["the branch beside the shortcut is the same for twice the contrast"] = _close(made(2 * x, emb) - 2 * x,
                                                                                            result - x)
    return seen


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3)


ResBlock = Exercise(
    "ResBlock", "07", "(in_channels, out_channels, emb_dim), a module with forward(x, emb) to (B, out_channels, H, W)",
    reference=_Block,
    cases=lambda: [(64, 64), (64, 128)],
    probe=_properties,
    mistakes={
        "the embedding does not reach the result: it is not added, or a norm with one channel in each group takes it "
        "out again": (_with(time="nowhere"), _with(groups=0)),
        "the embedding (B, C) meets the features (B, C, H, W): torch lines it up with rows and columns, not with "
        "images and channels": _with(time="width"),
        "a fresh block changes its input already: let the second convolution start at zero": _with(zero=False),
        "the shortcut is missing: a fresh block should give what it was given": _with(shortcut=False),
        "the block fails where the number of channels changes: the shortcut then needs a 1x1 convolution":
            _with(match=False),
        "the branch changes with the contrast of its input: first the norm, then the activation, then the convolution":
            (_with(order="no norm"), _with(order="activation first"), _with(order="conv first"))},
    compared="what it gives when it is fresh and with other weights, for 64 to 64 channels and for 64 to 128")


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


attention = Exercise(
    "attention", "07", "(q, k, v), each (B, heads, N, d), which returns the mixed values, of that shape",
    reference=lambda q, k, v: _scores(q, k).softmax(-1) @ v,
    cases=lambda: [tuple(small.normal(*shape, seed=i) for i in range(3)) for shape in ((2, 2, 5, 3), (2, 2, 4, 4))],
    mistakes={
        "the scores are not scaled: divide them by sqrt(d), or the softmax picks one pixel only":
            lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
        "the scores are divided by d; expected its square root":
            lambda q, k, v: (q @ k.mT / q.shape[-1]).softmax(-1) @ v,
        "the scores are divided by the root of the number of pixels; expected that of d, the numbers in one key":
            lambda q, k, v: (q @ k.mT / math.sqrt(q.shape[-2])).softmax(-1) @ v,
        "the scores are divided by the root of all channels together; each head has its own d":
            lambda q, k, v: (q @ k.mT / math.sqrt(q.shape[1] * q.shape[-1])).softmax(-1) @ v,
        "the softmax runs over the queries; the weights of one query, over all keys, must add up to 1":
            lambda q, k, v: _scores(q, k).softmax(-2) @ v,
        "the softmax is missing: weights must be positive and add up to 1": lambda q, k, v: _scores(q, k) @ v,
        "queries and keys are exchanged": lambda q, k, v: _scores(k, q).softmax(-1) @ v,
        "these are the weights; the values still have to be mixed with them": lambda q, k, v: _scores(q, k).softmax(-1),
        "the keys are not transposed, so that channels are compared with pixels":
            lambda q, k, v: (q @ k / math.sqrt(q.shape[-1])).softmax(-1) @ v},
    compared="two heads over five pixels, and over four")
