"""From tensors to pictures that can be trusted: pixels, grids, files, GIFs, the loss curve, pictures with sliders."""
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .alt_text import image_with_alt
from .storage import write_atomic

# JavaScript, run by each new picture of `with_sliders`. ipywidgets' handles have no name, and give a screen reader the
# number of their value. Until the next picture comes, only the page can say that Python is still at work elsewhere.
_PICTURE_IS_THERE = """
    const box = this.closest('.widget-vbox');
    clearTimeout(box.timer);
    for (const slider of box.querySelectorAll('.widget-slider')) {
        const handle = slider.querySelector('[role=slider]');
        handle.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
        handle.setAttribute('aria-valuetext', slider.querySelector('.widget-readout').textContent);
        if (handle.watched) continue;
        handle.watched = new MutationObserver(() => {
            clearTimeout(box.timer);
            box.timer = setTimeout(() => { box.querySelector('[role=status]').hidden = false }, 700) });
        handle.watched.observe(handle, {attributeFilter: ['aria-valuenow']}) }"""
_WAITING = '<div role="status" hidden>The picture waits for Python: another cell is still running.</div>'


def to_pixels(images: Tensor, range: tuple[float, float] | None = (-1, 1)) -> np.ndarray:
    """
    A batch as pixels for Matplotlib and Pillow: (B, C, H, W) to uint8 (B, H, W, 3).

    `images`: uint8, or floating point in `range` (rounded, and clipped where outside); None is (-1, 1). C is 1 or 3.
    `ValueError` for another shape or a range that is none.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 1, H, W) or (B, 3, H, W)")
    low, high = range or (-1, 1)
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"range is {range}, expected the darkest number and the brightest, such as (-1, 1)")
    if images.is_floating_point():
        images = ((images.detach().float().clamp(low, high) - low) * (255 / (high - low))).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def grid(images: Tensor, columns: int | None = None, pad: int = 2, range=(-1, 1)) -> np.ndarray:
    "All images in one picture, uint8 (height, width, 3), row by row, `pad` white pixels apart; as square as it goes."
    pixels = to_pixels(images, range)
    n, h, w, _ = pixels.shape
    columns = columns or int(np.ceil(n**0.5))
    rows = -(-n // columns)
    canvas = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = pad + i // columns * (h + pad), pad + i % columns * (w + pad)
        canvas[top : top + h, left : left + w] = picture
    return canvas


def _enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    "A picture with every pixel repeated `scale` times in both directions."
    return Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def _write_picture(path: str | Path, save: Callable[[BytesIO], None]) -> None:
    "Let `save` write a picture to memory, and then all of it to the disk at once."
    save(buffer := BytesIO())
    write_atomic(path, buffer.getvalue())


FORMATS = {".png": {"format": "PNG"}, ".webp": {"format": "WEBP", "lossless": True},
           ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
           ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0}}


def picture_format(path: str | Path) -> dict:
    "What Pillow needs to know to write the kind of picture that a file's name ends in; `ValueError` for another kind."
    suffix = Path(path).suffix.lower() or ".png"
    if suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} ends in {suffix!r}, expected a picture that ends in one of {tuple(FORMATS)}")
    return FORMATS[suffix]


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, scale: int = 2, range=(-1, 1)) -> None:
    "Write `grid(images)` as a PNG, WebP or JPEG, as `path` ends, every pixel enlarged `scale` times."
    how = picture_format(path)
    _write_picture(path, lambda file: _enlarged(grid(images, columns, range=range), scale).save(file, **how))


def _new_figure(size: tuple[float, float]):
    """
    A figure that a notebook shows once: as the last line of a cell, by `plt.show()`, or at the end of the cell.

    Pyplot knows it, so that `plt.show()` finds it, unless there is no backend to load.
    """
    from matplotlib.figure import Figure  # here and below, so that nobody needs Matplotlib to train
    try:
        import matplotlib.pyplot as plt
        figure = plt.figure(figsize=size)
    except ImportError:  # MPLBACKEND names one of another environment, or one that needs a screen
        figure = Figure(figsize=size)
    figure._repr_mimebundle_, figure._repr_png_ = partial(_let_go, figure), partial(_as_png, figure)
    return figure


def _let_go(figure, include=None, exclude=None) -> dict:
    "Called by whoever is about to show a figure. Pyplot, which would show it once more at the end, forgets it."
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot and "inline" in pyplot.get_backend():
        pyplot.close(figure)
    return {}  # the picture itself comes from Jupyter's own way with figures, or from the function below


def _as_png(figure) -> bytes:
    figure.savefig(buffer := BytesIO(), format="png", bbox_inches="tight")
    return buffer.getvalue()


def show_images(images: Tensor, columns: int | None = None, titles: Sequence[str] | None = None, size: float = 0.8,
                range=(-1, 1)):
    """
    Draw a batch as a grid with Matplotlib, a title above each image where given. Returns the figure.

    `images`, `range`: as in `to_pixels`; `size`: inches an image.
    """
    pixels = to_pixels(images, range)
    columns = columns or min(len(pixels), 10)
    rows = -(-len(pixels) // columns)
    figure = _new_figure((size * columns, (size + 0.25 * bool(titles)) * rows))
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if i < len(pixels):
            axis.imshow(pixels[i], interpolation="nearest")
            if titles:
                printable = str(titles[i]).encode(errors="backslashreplace").decode()  # a folder's name need not be
                axis.set_title(printable, fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def save_gif(frames: Iterable[Tensor], path: str | Path, fps: int = 12, hold: float = 2.0, scale: int = 2,
             range=(-1, 1)) -> None:
    "Batches of images as the frames of a GIF, each drawn as a grid; the last stays for `hold` seconds."
    if Path(path).suffix.lower() not in ("", ".gif"):
        raise ValueError(f"{str(path)!r} ends in {Path(path).suffix!r}, expected a picture that ends in '.gif'")
    pictures = [_enlarged(grid(frame, range=range), scale) for frame in frames]
    if not pictures:
        raise ValueError("frames is empty, expected one batch of images or more")
    durations = [1000 // fps] * (len(pictures) - 1) + [int(hold * 1000)]
    _write_picture(path, lambda file: pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:],
                                                       duration=durations, loop=0))


def plot_loss(steps: Sequence[int], losses: Sequence[float], path: str | Path | None = None):
    "The training loss against the step, on a logarithmic axis; saved at `path`, by default as PNG. Returns the figure."
    from matplotlib.figure import Figure
    size = (6, 3.5)
    figure = _new_figure(size) if path is None else Figure(figsize=size)  # a file needs nothing of pyplot
    axis = figure.subplots()
    axis.plot(steps, losses, color="#31688e", linewidth=1.5)
    axis.set(xlabel="training step", ylabel="mean squared error", yscale="log", title="Training loss")
    axis.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    if path is not None:
        kind = Path(path).suffix[1:] or "png"
        _write_picture(path, lambda file: figure.savefig(file, dpi=100, format=kind))
    return figure


def with_slider(draw: Callable, name: str, values: Sequence, start, positions: Sequence | None = None,
                size: tuple[float, float] = (1.6, 1.6), ahead: bool = False):
    """
    A picture with one slider, and a static strip of the picture at `positions`: `with_sliders` for a single knob.

    `positions`: values to show in the strip, by default five that are spread evenly over `values`.
    """
    if positions is None:
        last, n = len(values) - 1, min(5, len(values))
        positions = [values[round(i * last / max(n - 1, 1))] for i in range(n)]
    return with_sliders(draw, {name: values}, (start,), [(value,) for value in positions], size, ahead)


def with_sliders(draw: Callable, knobs: dict[str, Sequence], start: Sequence, positions: Sequence[Sequence],
                 size: tuple[float, float] = (1.6, 1.6), ahead: bool = False):
    """
    A picture that sliders change, under a static strip that also shows where no kernel runs.

    `draw(panel, *values)` draws on an empty Matplotlib figure, one value for each slider; it should take a tenth of a
    second at most, or be drawn `ahead`: all pictures before any handle is moved. `knobs`: the label of each slider and
    its values in order. `start` and each of `positions` hold one value of every knob. `size`: inches of one picture.
    Shows the strip and returns the sliders with their picture, which say so where a picture is late because another
    cell runs; without ipywidgets it returns the strip. `ValueError` for a value that its slider does not have.
    """
    for place in [start, *positions]:
        if len(place) != len(knobs):
            raise ValueError(f"a position is {tuple(place)}, expected one value for each of {tuple(knobs)}")
        for value, (name, values) in zip(place, knobs.items()):
            if value not in values:
                raise ValueError(f"{name} is {value}, expected one of the {len(values)} values of its slider")
    strip = _strip(draw, positions, size)
    try:
        from ipywidgets import HTML, SelectionSlider, VBox  # sliders come with the extra `course`
    except ImportError:
        return strip
    from IPython.display import display  # ipywidgets needs it too

    @cache  # back at an old position, the picture is there at once
    def frame(*values) -> str:
        from matplotlib.figure import Figure
        figure = Figure(figsize=[1.6 * inches for inches in size], layout="constrained", facecolor="white")
        draw(figure, *values)
        figure.savefig(buffer := BytesIO(), format="png", dpi=100)
        where = ", ".join(f"{name} = {_short(value)}" for name, value in zip(knobs, values))
        alt, width = f"The picture at {where}", round(160 * size[0])
        return image_with_alt(buffer.getvalue(), alt, width, onload=_PICTURE_IS_THERE) + _WAITING

    sliders = [SelectionSlider(options=[(_short(v), v) for v in values], value=value, description=name, tooltip=name)
               for value, (name, values) in zip(start, knobs.items())]
    picture = HTML(frame(*start))
    for places in product(*knobs.values()) if ahead else ():
        frame(*places)

    def redraw(change) -> None:
        picture.value = frame(*(slider.value for slider in sliders))

    for slider in sliders:
        slider.observe(redraw, "value")
    display(strip)
    return VBox([*sliders, picture])


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _strip(draw: Callable, positions: Sequence[Sequence], size: tuple[float, float]):
    "The picture at each of `positions`, side by side, as many to a row as a page is wide."
    columns = min(len(positions), int(9.6 / size[0]))
    rows = -(-len(positions) // columns)
    figure = _new_figure((size[0] * columns, size[1] * rows))
    figure.set_layout_engine("constrained")
    figure.set_facecolor("white")
    panels = figure.subfigures(rows, columns, squeeze=False).flat
    for panel, values in zip(panels, positions):
        draw(panel, *values)
    return figure
