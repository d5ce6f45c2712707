"""Exercises of chapter 07."""
import math
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import small
from .exercise import Exercise


ROLES = "GroupNorm 1", "3x3 convolution 1", "Linear 1", "GroupNorm 2", "3x3 convolution 2"


class _Block(nn.Module):
    """
    A residual block with parts that can be left out or exchanged.

    `order`: what each half does, one letter a step: norm, SiLU, convolution, time added. `zero`: the parts of the
    second convolution that start at zero. `align`: how the shift by the time meets the maps.
    """
    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, *, order: str = "nsc tnsc", groups: int = 32,
                 activation: Callable = F.silu, activate_time: bool = False, zero: tuple[str, ...] = ("weight", "bias"),
                 shortcut: str = "where needed", align: Callable = lambda shift: shift[:, :, None, None]):
        super().__init__()
        self.order, self.activation, self.activate_time, self.align = order.split(), activation, activate_time, align
        before = in_channels if self.order[0].find("n") < self.order[0].find("c") else out_channels
        self.norms = nn.ModuleList(nn.GroupNorm(groups or channels, channels) for channels in (before, out_channels))
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, 3, padding=1) for c in (in_channels, out_channels))
        self.project = nn.Linear(emb_dim, out_channels)
        convolve = shortcut == "always" or shortcut != "never" and in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if convolve else nn.Identity()
        self.add = shortcut != "missing"
        for part in zero:
            nn.init.zeros_(getattr(self.convs[1], part))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = x
        for steps, norm, conv in zip(self.order, self.norms, self.convs):
            for step in steps:
                h = {"n": norm, "s": self.activation, "c": conv, "t": lambda h: h + self.shift(emb)}[step](h)
        return self.shortcut(x) + h if self.add else h

    def shift(self, emb: Tensor) -> Tensor:
        return self.align(self.project(F.silu(emb) if self.activate_time else emb))


def _with(**parts) -> Callable:
    return lambda in_channels, out_channels, emb_dim: _Block(in_channels, out_channels, emb_dim, **parts)


def _either_half(*steps: str) -> tuple[Callable, ...]:
    "Blocks that take these steps in the first half, in the second, or in both."
    orders = [order for s in steps for order in (f"{s} tnsc", f"nsc t{s}", f"{s} t{s}")]
    return tuple(_with(order=order) for order in orders)


def _kind(layer: nn.Module) -> str:
    name = "{}x{} convolution".format(*layer.kernel_size) if isinstance(layer, nn.Conv2d) else type(layer).__name__
    return name if getattr(layer, "bias", None) is not None else f"{name} without a bias"


@torch.no_grad()
def _properties(block: Callable, in_channels: int, out_channels: int) -> dict | None:
    """
    What a fresh block does, and then, with weights that depend on a layer's role alone, what enters each layer.

    The role of a layer is its kind, and whether it is the first or the second of its kind to be called. There are as
    many images as rows, and as many columns as channels, so that an embedding that torch stretches along the wrong
    dimensions gives an answer, and a wrong one.
    """
    made = block(in_channels, out_channels, 16)
    if made in (None, ...):
        return None
    made.eval()
    x, emb, layers, entered = small.normal(2, in_channels, 2, 64), small.normal(2, 16, seed=1), {}, {}

    def notice(layer: nn.Module, given: tuple) -> None:
        if layer not in layers:
            of_its_kind = sum(_kind(each) == _kind(layer) for each in layers)
            layers[layer] = f"{_kind(layer)} {of_its_kind + 1}"
        entered[layers[layer]] = given[0].clone()

    for part in made.modules():
        if list(part.parameters()) and not list(part.children()):
            part.register_forward_pre_hook(notice)
    fresh = made(x.clone(), emb.clone())
    if fresh is None:
        return None
    counts = Counter(map(_kind, layers))
    wider = in_channels != out_channels
    shortcut = "the 1x1 convolution of its input" if wider else "its input"
    beside = [layer(x) for layer in layers if _kind(layer) == "1x1 convolution"] if wider else [x]
    gives = shortcut if any(torch.allclose(fresh, each, atol=1e-4) for each in beside) else "something else"
    seen = {"the layers it runs": ", ".join(f"{kind} ({counts[kind]})" for kind in sorted(counts)),
            "the shape of the result": tuple(fresh.shape),
            "a fresh block gives": gives if fresh.any() else "zeros"}
    for layer, name in layers.items():
        weights = torch.Generator().manual_seed(sum(name.encode()))
        for part in layer.parameters():
            part.copy_(torch.randn(part.shape, generator=weights) / part[0].numel() ** 0.5)
    entered.clear()
    result = made(x.clone(), emb.clone())
    return seen | {f"what enters {role}": entered.get(role) for role in ROLES} | {"the result": result}


ResBlock = Exercise(
    "ResBlock", "07", "(in_channels, out_channels, emb_dim), a module with forward(x, emb) to (B, out_channels, H, W)",
    reference=_Block,
    cases=lambda: [(64, 64), (64, 128)],
    probe=_properties,
    mistakes={
        "the embedding does not reach the result: it is not added, or a norm with one channel in each group takes it "
        "out again": (_with(order="nsc nsc"), _with(groups=0)),
        "the embedding (B, C) meets the features (B, C, H, W): torch lines it up with rows and columns, not with "
        "images and channels": (_with(align=lambda shift: shift), _with(align=lambda shift: shift[:, None, None])),
        "the time is added in another place; add it between the first convolution and the second norm":
            tuple(_with(order=order) for order in ("nsc ntsc", "nsc nstc", "nsc nsct", "nstc nsc", "ntsc nsc",
                                                   "tnsc nsc")),
        "the embedding has been through its SiLU already; once is enough": _with(activate_time=True),
        "a SiLU is missing: each half is norm, SiLU, convolution": _either_half("nc"),
        "a norm is missing: each half is norm, SiLU, convolution": _either_half("sc"),
        "the order is another in a half: first the norm, then the SiLU, then the convolution":
            _either_half("snc", "ncs", "scn", "cns", "csn"),
        "the activation is not SiLU": (_with(activation=F.relu), _with(activation=F.gelu)),
        "the norms do not have 32 groups": tuple(_with(groups=groups) for groups in (1, 2, 4, 8, 16)),
        "a fresh block changes its input already: let the second convolution start at zero, weight and bias":
            (_with(zero=()), _with(zero=("weight",)), _with(zero=("bias",))),
        "the shortcut is missing: a fresh block should give what it was given": _with(shortcut="missing"),
        "the shortcut is a 1x1 convolution even where the number of channels stays; there it is the input itself":
            _with(shortcut="always"),
        "the block stops where the number of channels changes: the shortcut needs a 1x1 convolution there, and what "
        "follows the first convolution has out_channels": _with(shortcut="never")},
    compared="its layers, what a fresh block gives, and with other weights what enters each layer and what comes out, "
             "for 64 to 64 channels and for 64 to 128")


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
        "the scaling comes after the softmax, so that the weights of a query do not add up to 1; divide the scores":
            lambda q, k, v: (q @ k.mT).softmax(-1) / math.sqrt(q.shape[-1]) @ v,
        "the softmax is missing: weights must be positive and add up to 1": lambda q, k, v: _scores(q, k) @ v,
        "queries and keys are exchanged": lambda q, k, v: _scores(k, q).softmax(-1) @ v,
        "these are the weights; the values still have to be mixed with them": lambda q, k, v: _scores(q, k).softmax(-1),
        "the keys are not transposed, so that channels are compared with pixels":
            lambda q, k, v: (q @ k / math.sqrt(q.shape[-1])).softmax(-1) @ v},
    compared="two heads over five pixels, and over four")
