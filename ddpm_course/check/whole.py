"""The reader's own DDPM: all its pieces in one file, checked, trained, and seen beside the course's."""
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import load_digits
from ..ddim import ddim_sample
from ..evaluation import DigitFeatures
from ..hub import load_pretrained
from ..lib.arguments import check_number
from ..lib.viz import save_grid, show_images
from ..schedules import time_pairs
from ..training import EMA, batch_index, rise_and_fall
from .catalogue import EXERCISES
from .exercise import Verdict, pronounce, where_it_stopped
from .record import remember
from .small import whole

PIECES = ("q_sample", "q_posterior", "loss", "cosine_betas", "time_embedding", "ResBlock", "attention", "ddpm_sample",
          "ddim_move", "train_step")
TO_TRAIN = ("cosine_betas", "train_step", "UNet")  # and one of the two ways to draw
BATCH, STEPS, T = 64, 50, 1000


def my_ddpm(file: str | Path = "my_ddpm.py", *, train: bool = True, updates: int = 700,
            judge: Callable[[Tensor], Tensor] | None = None, record: bool = True) -> Verdict:
    """
    Check every piece that the reader's `file` defines, train its `UNet()` on digits, and draw 64 with its functions.

    The pieces are the exercises of chapters 02 to 10 under their names, and a class `UNet` without arguments, called
    with x (B, 1, 28, 28) and t int64 (B,). Training takes `updates` batches of 64 with the file's `cosine_betas` and
    `train_step`; drawing, 50 steps of its `ddim_move`, or else its `ddpm_sample`. The course adds what chapters 08 and
    10 do: a learning rate that rises and falls, averaged weights, and estimates that stay in [-1, 1]. The picture lies
    beside the file, the reader's digits on its left and the course's on its right. `train=False`: only check.
    `judge`: how sure it is, 0 to 1 each, that images (B, 1, 28, 28) are digits; None for that of chapter 12.
    """
    updates = check_number("updates", updates, 1, whole=True)
    file = Path(file)
    try:
        module = _load(file)
    except FileNotFoundError:
        return _say(False, f"there is no file {file}")
    except Exception as stopped:  # whatever the reader's code may raise
        return _say(False, where_it_stopped(stopped, str(file)))
    verdicts = {name: EXERCISES[name](getattr(module, name), record=record) for name in PIECES if hasattr(module, name)}
    missing = [name for name in (*PIECES, "UNet") if not hasattr(module, name)]
    if wrong := [name for name, verdict in verdicts.items() if not verdict]:
        return _say(False, f"these pieces are not right yet: {', '.join(wrong)}")
    if not train:
        return _say(not missing, f"{len(verdicts)} pieces are right"
                                 + (f"; these are not there yet: {', '.join(missing)}" if missing else ""))
    if needed := [name for name in TO_TRAIN if name in missing]:
        return _say(False, f"{len(verdicts)} pieces are right; training also needs {', '.join(needed)}")
    if {"ddim_move", "ddpm_sample"} <= set(missing):
        return _say(False, f"{len(verdicts)} pieces are right; drawing also needs ddim_move or ddpm_sample")
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model, losses = _train(module, updates)
            images = _draw(module, model)
    except Exception as stopped:
        return _say(False, where_it_stopped(stopped, str(file)))
    judge = judge or (lambda images: DigitFeatures().confidence(images)[0])
    return _show(images, losses, file.with_suffix(".png"), judge, record and not missing)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("my_ddpm", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _train(module: ModuleType, updates: int) -> tuple[torch.nn.Module, list[float]]:
    "The averaged network after `updates` of the reader's own steps, and the loss of each."
    data, alpha_bar = load_digits(), (1 - module.cosine_betas(T).double()).cumprod(0).float()
    model, x = module.UNet(), torch.zeros(2, 1, 28, 28)
    if (shape := model(x, torch.tensor([0, T - 1])).shape) != x.shape:
        raise ValueError(f"UNet answers images of shape {tuple(x.shape)} with {tuple(shape)}, expected their own shape")
    optimizer, average, losses = torch.optim.Adam(model.parameters(), lr=0.0), EMA(model, 0.995), []
    g = torch.Generator().manual_seed(0)
    for step in tqdm(range(updates), leave=False, desc="training your network"):
        optimizer.param_groups[0]["lr"] = 2e-3 * rise_and_fall(step, updates, warmup=50, decay=0.7)
        x0, _ = data.batch(batch_index(len(data), BATCH, step, seed=0))
        t, noise = torch.randint(T, (BATCH,), generator=g), torch.randn(x0.shape, generator=g)
        losses.append(float(module.train_step(model, optimizer, x0, t, noise, alpha_bar)))
        average.update_parameters(model)
    return average.module.eval(), losses


@torch.no_grad()
def _draw(module: ModuleType, model: torch.nn.Module) -> Tensor:
    "64 images by the reader's own DDIM, or DDPM where there is none."
    betas, g = module.cosine_betas(T).double(), torch.Generator().manual_seed(0)
    alpha_bar, x = (1 - betas).cumprod(0), torch.randn(64, 1, 28, 28, generator=g)

    def bounded(x: Tensor, t: Tensor) -> Tensor:
        "The noise that belongs to the estimate of x0 once that is clipped to [-1, 1] (8.5)."
        a, s = (whole(scale[t].float()) for scale in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        x0 = ((x - s * model(x, t)) / a).clamp(-1, 1)
        return (x - a * x0) / s

    if not hasattr(module, "ddim_move"):
        return module.ddpm_sample(bounded, x, betas.float(), g)
    for t, t_prev in tqdm(time_pairs(T, STEPS), leave=False, desc="drawing your digits"):
        prev = alpha_bar[t_prev] if t_prev >= 0 else alpha_bar.new_ones(())
        x = module.ddim_move(x, bounded(x, torch.full((64,), t)), alpha_bar[t], prev).float()
    return x


def _show(images: Tensor, losses: list[float], picture: Path, judge: Callable, record: bool) -> Verdict:
    "The picture, and the verdict on it."
    last = losses[-len(losses) // 10:]
    if not (images.isfinite().all() and torch.tensor(last).isfinite().all()):
        return _say(False, f"after {len(losses)} updates the loss or the images hold NaN or infinite values")
    course = ddim_sample(load_pretrained("digits"), 64, steps=STEPS, seed=0, progress=False)
    both = torch.cat([images.view(8, 8, 1, 28, 28), course.view(8, 8, 1, 28, 28)], 1).flatten(0, 1)
    save_grid(both, picture, columns=16)
    show_images(both, columns=16, size=0.45)
    if record:
        remember("my_ddpm")
    counts = [int((judge(each) >= 0.9).sum()) for each in (images, course)]
    sure = "; the judge is sure of {} of your 64 digits, and of {} of the course's".format(*counts)
    return _say(True, f"right: all pieces fit together. {len(losses)} updates, loss {sum(last) / len(last):.4f} at the "
                      f"end; {picture} shows your digits on the left, the course's on the right{sure}")


def _say(right: bool, words: str) -> Verdict:
    return pronounce("my_ddpm", right, words)
