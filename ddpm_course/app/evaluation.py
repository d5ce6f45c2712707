"""How good the images of a model are: what `ddpm_course evaluate` prints and writes, and what a run logs of it."""
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..data import BUNDLED
from ..ddim import ddim_sample
from ..evaluation import DigitFeatures, Score, all_scores, copied, frechet_distance, nearest_neighbours
from ..lib.storage import MANIFEST, read_json
from ..objective import Denoiser
from ..training import class_count
from .config import TrainConfig
from .images import load_data
from .options import saved_config

DIGITS = ("digits", "mnist")  # what the judge knows; both are held against the bundled digits
FEWEST = 130  # images, or half of them would be fewer than the judge has features
LOGGED, LOGGED_STEPS = 200, 10  # images, and steps for each, while a run goes on
MOST = 10_000  # training images in which neighbours are sought


def real_images(run: str, shape: tuple[int, ...], data: str | None) -> tuple[str, Tensor, Tensor]:
    """
    The name of the real images, those held out, and those to train on, in [-1, 1].

    Those that `data` names, a set or a folder, or else those that a run was trained on, or a bundled model.
    `ValueError` where they are not known or have another shape than digits, and where none can be held out.
    """
    manifest = Path(run) / MANIFEST
    is_run = manifest.is_file() and "format" not in read_json(manifest)
    if data is None and not is_run and run not in BUNDLED:
        raise ValueError(f"data is None, expected the real images to compare with, such as --data digits; the model "
                         f"{run!r} does not say where they are")
    config = saved_config(manifest) if is_run and data is None else TrainConfig(data=data or run)
    if config.data in DIGITS:
        if tuple(shape) != (1, 28, 28):
            raise ValueError(f"data is {config.data!r}, of 28 x 28 pixels and 1 channel, expected images of "
                             f"{shape[-1]} x {shape[-2]} pixels and {shape[0]} channel(s), as the model draws")
        config = TrainConfig(data="digits")
    config = dataclasses.replace(config, image_size=shape[-1], channels=shape[0], validation=max(config.validation, 1))
    training, held_out = load_data(config)
    if held_out is None:
        raise ValueError(f"data is {config.data!r}, of {len(training)} images, expected more, so that some can be held "
                         f"out")
    images = (part.batch(torch.arange(min(len(part), MOST)))[0] for part in (held_out, training))
    return config.data, *images


def confident(judge: DigitFeatures, images: Tensor) -> Score:
    "The share of images of which the judge is sure at 0.9 or more, and its standard error."
    share = (judge.confidence(images)[0] >= 0.9).double().mean().item()
    return Score(share, (share * (1 - share) / len(images)) ** 0.5)


def evaluate(images: Tensor, held_out: Tensor, training: Tensor,
             judge: DigitFeatures | None) -> dict[str, tuple[Score, Score]]:
    """
    Every score of `images`, and beside it the floor, the same score of as many real ones.

    The reference is the first len(images) of `held_out`, and the floor has training images in the place of the samples.
    `judge`: None where no network knows such images; then only `copied` is told, from distances of pixels.
    """
    n, table = len(images), {}
    if judge:
        real, made, other = (judge.features(x[:n]) for x in (held_out, images, training))
        scores, floors = all_scores(real, made), all_scores(real, other)
        table = {name: (scores[name], floors[name]) for name in scores}
        table["confident"] = confident(judge, images), confident(judge, held_out[:n])
    return table | {"copied": (Score(*copied(images, held_out, training)), Score(0.5, 0.0))}


def lines(table: dict[str, tuple[Score, Score]]) -> Iterator[str]:
    "The table of `evaluate` as it is printed."
    yield f"{'':12s}{'samples':>18s}{'real images':>18s}"
    for name, scores in table.items():
        yield f"{name:12s}" + "".join(f"{str(score) if score.error else f'{score.value:.3g}':>18s}" for score in scores)


def beside_neighbours(images: Tensor, training: Tensor, n: int = 16) -> Tensor:
    "The `n` images that lie nearest to a training image, and under each row of eight those training images."
    distance, index = nearest_neighbours(images, training)
    first = distance.argsort()[:n]
    rows = zip(images[first].split(8), training[index[first]].split(8))
    return torch.cat([part for row in rows for part in row])


def logged_scores(denoiser: Denoiser, held_out, seed: int, judge: DigitFeatures) -> dict[str, float]:
    "What a run writes down while it goes on: the Frechet distance of a few samples, and that of real digits."
    labels = torch.arange(LOGGED) % class_count(denoiser) if class_count(denoiser) else None
    images = ddim_sample(denoiser, LOGGED, steps=min(LOGGED_STEPS, denoiser.schedule.num_timesteps), y=labels,
                         seed=seed, progress=False).cpu()
    real, other = judge.features(held_out.batch(torch.arange(2 * LOGGED))[0].cpu()).split(LOGGED)
    return {"frechet": frechet_distance(real, judge.features(images)), "frechet_floor": frechet_distance(real, other)}
