"""Trains the network that judges digits, on MNIST's 60,000 training images, and puts it into the package.

    python scripts/make_digit_features.py FOLDER_WITH_THE_FOUR_IDX_GZ_FILES

Five minutes on one core. Weights are kept in half precision, and judged so on MNIST's 10,000 test images. The scores of
chapter 12 hold for one file only: its hash, which is printed at the end, stands in `DIGITS_1` of
nbs/12_evaluation.ipynb. Whoever trains anew gives the network a new name.
"""
import json
import sys
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_course.data import to_model_range
from ddpm_course.evaluation import DigitNetwork
from ddpm_course.lib.images import read_idx
from ddpm_course.lib.storage import sha256, tensors_to_bytes

OUT = Path(__file__).parent.parent / "ddpm_course" / "assets" / "features" / "digits.safetensors"
NAME, SEED, EPOCHS, BATCH = "digits-1", 0, 6, 128


def read(source: Path, split: str) -> tuple[Tensor, Tensor]:
    images, labels = (read_idx(source / f"{split}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return images.view(-1, 1, 28, 28), labels.long()


def train(images: Tensor, labels: Tensor) -> DigitNetwork:
    torch.manual_seed(SEED)
    net, updates = DigitNetwork(), len(images) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * updates)
    for epoch in range(EPOCHS):
        for index in torch.randperm(len(images))[:updates * BATCH].split(BATCH):
            dx, dy = torch.randint(-2, 3, (2,)).tolist()  # a shift, so that position tells nothing
            x = to_model_range(images[index]).roll((dy, dx), (2, 3))
            loss = F.cross_entropy(net(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.4f}", flush=True)
    return net.eval()


@torch.no_grad()
def to_unit_variance(net: DigitNetwork, images: Tensor) -> None:
    "Divide the features by a power of 2, so that they vary by about 1, and multiply what decides: no answer changes."
    features = torch.cat([net.features(to_model_range(x)) for x in images.split(1000)])
    scale = 2 ** features.var(0).mean().sqrt().log2().round()
    for parameter, factor in ((net.features[-1].weight, 1 / scale), (net.features[-1].bias, 1 / scale),
                              (net.decide.weight, scale)):
        parameter.mul_(factor)


@torch.no_grad()
def accuracy(net: DigitNetwork, images: Tensor, labels: Tensor) -> float:
    found = torch.cat([net(to_model_range(x)).argmax(1) for x in images.split(1000)])
    return found.eq(labels).double().mean().item()


def main(source: Path) -> None:
    images, labels = read(source, "train")
    net = train(images, labels)
    to_unit_variance(net, images[:10_000])
    half = {name: x.half() if x.is_floating_point() else x for name, x in net.state_dict().items()}
    net.load_state_dict(half)  # as readers will have it
    facts = {"name": NAME, "accuracy": accuracy(net, *read(source, "t10k")), "epochs": EPOCHS, "seed": SEED,
             "trained on": "MNIST, 60,000 training images", "judged on": "MNIST, 10,000 test images",
             "date": date.today().isoformat()}
    content = tensors_to_bytes(half, {"facts": json.dumps(facts)})  # one entry: the order of several is not fixed
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(content)
    print(f"accuracy {facts['accuracy']:.4f}, {len(content) / 1000:.0f} kB, sha256 {sha256(content)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
