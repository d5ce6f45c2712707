"""What the metadata of a cell says about its figure, as "fig-alt", reaches those who cannot see the figure."""
import html
import json
import os
from base64 import b64encode
from functools import cache
from io import BytesIO
from pathlib import Path

KEY = "fig-alt"  # the name that Quarto gives it; in the metadata it does not tell the answer above the picture


@cache
def alt_texts(notebook: str | Path) -> dict[str, str]:
    "What a notebook file says about its figures: cell id -> text. Empty where it cannot be read."
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        return {cell["id"]: cell["metadata"][KEY] for cell in cells if KEY in cell["metadata"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def image_with_alt(png: bytes, alt: str, width: int | None = None, onload: str = "") -> str:
    "HTML that shows a picture and says `alt` to a screen reader. `onload`: JavaScript to run once it is there."
    more = "".join(f' {name}="{html.escape(str(value))}"' for name, value in (("width", width), ("onload", onload))
                   if value)
    return f'<img alt="{html.escape(alt)}"{more} src="data:image/png;base64,{b64encode(png).decode()}">'


def speak_figures(shell) -> None:
    """
    Let the Matplotlib figures that a cell of this IPython `shell` shows carry the alt text of the cell.

    JupyterLab shows a PNG without any, and takes HTML before PNG. It tells the kernel which file runs and which cell,
    and the file is looked up. Where either is not known, or the cell has no such text, the PNG is shown as ever.
    """
    if getattr(shell, "display_formatter", None) is None or hasattr(shell, "speaks_figures"):
        return
    shell.speaks_figures = True
    text = ""  # of the cell that runs

    def runs(cell_id: str | None) -> None:
        nonlocal text
        text = alt_texts(os.environ.get("JPY_SESSION_NAME", "")).get(cell_id, "")
        if text:  # it is going to draw
            from matplotlib.figure import Figure
            Figure._repr_html_ = as_html  # Matplotlib itself needs it for its WebAgg windows alone

    def as_html(figure) -> str | None:
        if not text:
            return None
        figure.savefig(buffer := BytesIO(), format="png", bbox_inches="tight", facecolor=figure.get_facecolor())
        return image_with_alt(buffer.getvalue(), text)

    shell.events.register("pre_run_cell", lambda info: runs(getattr(info, "cell_id", None)))
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}  # the message that asked for this very cell
    runs(parent.get("metadata", {}).get("cellId"))
