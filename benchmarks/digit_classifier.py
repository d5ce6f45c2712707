"""A judge for generated digits: a small convolutional network trained on the bundled real ones.

    python benchmarks/digit_classifier.py          trains it (about a minute on two cores) and says how good it is

It is not part of the package. `judge(images)` says how sure the network is of each image, and which digit it sees.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm_course.data import load_digits

WEIGHTS = Path(__file__).parent / "results" / "digit_classifier.safetensors"  # not committed; trained when missing


def network() -> nn.Module:
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    features = [*block(1, 32), *block(32, 64), *block(64, 128)]
    return nn.Sequential(*features, nn.Flatten(), nn.Dropout(0.3), nn.Linear(1152, 10))


def train(epochs: int = 8, batch_size: int = 100, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    data, net = load_digits("train"), network()
    opt = torch.optim.AdamW(net.parameters(), 2e-3)
    steps = epochs * len(data) // batch_size
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(batch_size):
            x, y = data.batch(index)
            dx, dy = torch.randint(-2, 3, (2,)).tolist()  # a shift of up to two pixels, so that position tells nothing
            loss = F.cross_entropy(net(x.roll((dy, dx), (2, 3))), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
    return net.eval()


def load() -> nn.Module:
    net = network()
    if not WEIGHTS.exists():
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        save_file(train().state_dict(), WEIGHTS)
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def judge(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    "Confidence (N,) in 0..1 and class (N,) of images (N, 1, 28, 28) in [-1, 1]."
    net = load()
    with torch.inference_mode():
        return torch.cat([net(x).softmax(1) for x in images.split(500)]).max(1)


def summary(images: torch.Tensor) -> dict:
    "What the command-line benchmarks print about a set of samples."
    confidence, digit = judge(images)
    return {"n": len(images), "confident": (confidence >= 0.9).float().mean().item(),
            "mean_confidence": confidence.mean().item(), "classes": digit.bincount(minlength=10).tolist()}


if __name__ == "__main__":
    data = load_digits("test")
    x, y = data.batch(torch.arange(len(data)))
    _, digit = judge(x)
    print(f"accuracy on the {len(data)} held-out digits: {(digit == y).float().mean():.4f}")
    print("real digits:", summary(x))
