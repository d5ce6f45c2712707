"""A DDPM of one's own, as a reader writes it chapter by chapter: `check.my_ddpm` looks at it, trains it and draws."""
import math

import torch
import torch.nn.functional as F
from torch import nn

# ---- chapter 02: noise an image to any step, and the step back when the image is known


def per_image(c):
    return c.view(-1, 1, 1, 1)


def q_sample(x0, t, noise, alpha_bar):
    a = per_image(alpha_bar[t])
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def q_posterior(x0, x_t, t, betas):
    alpha_bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    beta, now, before = (per_image(c[t]) for c in (betas, alpha_bar, before))
    mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - now)
    return mean, beta * (1 - before) / (1 - now)


# ---- chapter 04: the loss


def loss(model, x0, t, noise, alpha_bar):
    return F.mse_loss(model(q_sample(x0, t, noise, alpha_bar), t), noise)


# ---- chapter 05: the schedule


def cosine_betas(T):
    time = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


# ---- chapter 06: the time


def time_embedding(t, dim):
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / (half - 1))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# ---- chapter 07: the network


def norm(channels):
    return nn.GroupNorm(32, channels)


def conv(in_channels, out_channels):
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResBlock(nn.Module):
    def __init__(self, in_channels, out_channels, emb_dim):
        super().__init__()
        self.norm1, self.conv1 = norm(in_channels), conv(in_channels, out_channels)
        self.time = nn.Linear(emb_dim, out_channels)
        self.norm2, self.conv2 = norm(out_channels), conv(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


def attention(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(dim=-1) @ v


class SelfAttention(nn.Module):
    "All pixels of a feature map look at each other, with `heads` pairs of eyes."
    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads, self.norm = heads, norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).view(B, 3, self.heads, C // self.heads, H * W).transpose(-2, -1)
        mixed = attention(*qkv.unbind(1)).transpose(-2, -1).reshape(B, C, H, W)
        return x + self.out(mixed)


class UNet(nn.Module):
    "Digits (B, 1, 28, 28): four pixels folded into one, then 14x14 and 7x7 feature maps, and back up."
    def __init__(self, width=64, emb_dim=128):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim), nn.SiLU())
        self.conv_in = conv(4, width)
        self.down1 = ResBlock(width, width, emb_dim)
        self.down2 = ResBlock(width, width, emb_dim)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.down3 = ResBlock(width, 2 * width, emb_dim)
        self.mix = SelfAttention(2 * width)
        self.middle = ResBlock(2 * width, 2 * width, emb_dim)
        self.up3 = ResBlock(4 * width, 2 * width, emb_dim)
        self.grow = conv(2 * width, 2 * width)
        self.up2 = ResBlock(3 * width, width, emb_dim)
        self.up1 = ResBlock(2 * width, width, emb_dim)
        self.out = nn.Sequential(norm(width), nn.SiLU(), conv(width, 4))

    def forward(self, x, t):
        emb = self.time(time_embedding(t, self.width))
        h = self.conv_in(F.pixel_unshuffle(x, 2))
        first = self.down1(h, emb)
        second = self.down2(first, emb)
        third = self.down3(self.shrink(second), emb)
        h = self.middle(self.mix(third), emb)
        h = self.up3(torch.cat([h, third], 1), emb)
        h = self.grow(F.interpolate(h, scale_factor=2))
        h = self.up2(torch.cat([h, second], 1), emb)
        h = self.up1(torch.cat([h, first], 1), emb)
        return F.pixel_shuffle(self.out(h), 2)


# ---- chapters 08 and 09: two ways back


def ddpm_sample(model, x, betas, generator):
    alpha_bar = torch.cumprod(1 - betas, 0)
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        x = (x - betas[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        if t > 0:
            variance = betas[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
            x = x + variance.sqrt() * torch.randn(x.shape, generator=generator)
    return x


def ddim_move(x_t, eps, alpha_bar_t, alpha_bar_prev):
    x0 = (x_t - (1 - alpha_bar_t).sqrt() * eps) / alpha_bar_t.sqrt()
    return alpha_bar_prev.sqrt() * x0 + (1 - alpha_bar_prev).sqrt() * eps


# ---- chapter 10: Algorithm 1


def train_step(model, optimizer, x0, t, noise, alpha_bar):
    optimizer.zero_grad()
    error = loss(model, x0, t, noise, alpha_bar)
    error.backward()
    optimizer.step()
    return error.item()
