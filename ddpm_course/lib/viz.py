"""From tensors to pictures that can be trusted: pixels, grids, PNG and GIF files, and the loss curve."""
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .storage import write_atomic


def to_pixels(images: Tensor) -> np.ndarray:
    """
    A batch as pixels for Matplotlib and Pillow: (B, C, H, W) to uint8 (B, H, W, 3).

    `images`: uint8, or floating point in [-1, 1] (rounded, and clipped where outside). C is 1 or 3.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 1, H, W) or (B, 3, H, W)")
    if images.is_floating_point():
        images = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def grid(images: Tensor, columns: int | None = None, pad: int = 2) -> np.ndarray:
    "All images in one picture, uint8 (height, width, 3), row by row, `pad` white pixels apart; as square as it goes."
    pixels = to_pixels(images)
    n, h, w, _ = pixels.shape
    columns = columns or int(np.ceil(n**0.5))
    rows = -(-n // columns)
    canvas = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = pad + i // columns * (h + pad), pad + i % columns * (w + pad)
        canvas[top : top + h, left : left + w] = picture
    return canvas


def _write_picture(path: str | Path, save: Callable[[BytesIO], None]) -> None:
    "Let `save` write a picture to memory, and then all of it to the disk at once."
    save(buffer := BytesIO())
    write_atomic(path, buffer.getvalue())


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, scale: int = 2) -> None:
    "Write `grid(images)` as a PNG, every pixel enlarged `scale` times."
    picture = Image.fromarray(grid(images, columns))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    _write_picture(path, lambda file: picture.save(file, "PNG"))


def show_images(images: Tensor, columns: int | None = None, titles: Sequence[str] | None = None, size: float = 0.8):
    """
    Draw a batch as a grid with Matplotlib, a title above each image where given. Returns the figure.

    `images`: as in `to_pixels`; `size`: inches an image.
    """
    pixels = to_pixels(images)
    columns = columns or min(len(pixels), 10)
    rows = -(-len(pixels) // columns)
    figsize = (size * columns, (size + 0.25 * bool(titles)) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(pixels):
            axis.imshow(pixels[i], interpolation="nearest")
            if titles:
                axis.set_title(titles[i], fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def save_gif(frames: Iterable[Tensor], path: str | Path, fps: int = 12, hold: float = 2.0, scale: int = 2) -> None:
    "Batches of images as the frames of a GIF, each drawn as a grid; the last stays for `hold` seconds."
    pictures = [Image.fromarray(grid(f)) for f in frames]
    if not pictures:
        raise ValueError("frames is empty, expected one batch of images or more")
    pictures = [p.resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures]
    durations = [1000 // fps] * (len(pictures) - 1) + [int(hold * 1000)]
    _write_picture(path, lambda file: pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:],
                                                       duration=durations, loop=0))


def plot_loss(steps: Sequence[int], losses: Sequence[float], path: str | Path | None = None):
    "The training loss against the step, on a logarithmic axis, saved as a PNG at `path`. Returns the figure."
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.plot(steps, losses, color="#31688e", linewidth=1.5)
    axis.set(xlabel="training step", ylabel="mean squared error", yscale="log", title="Training loss")
    axis.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    if path is not None:
        plt.close(figure)
        _write_picture(path, lambda file: figure.savefig(file, dpi=100, format="png"))
    return figure
