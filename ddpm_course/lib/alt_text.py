"""What a cell says about its figure, in its line `#| fig-alt: ...`, reaches those who cannot see the figure."""
import html
import re
import sys
from base64 import b64encode
from io import BytesIO

LINE = re.compile(r"^#\s*\|\s*fig-alt:\s*(.+)$", re.MULTILINE)


def alt_text(source: str) -> str:
    "The text of the line `#| fig-alt: ...` in the source of a cell; empty where there is none."
    found = LINE.search(source)
    return found[1].strip() if found else ""


def image_with_alt(png: bytes, alt: str, width: int | None = None) -> str:
    "HTML that shows a picture and says `alt` to a screen reader."
    size = f' width="{width}"' if width else ""
    return f'<img alt="{html.escape(alt)}"{size} src="data:image/png;base64,{b64encode(png).decode()}">'


def speak_figures(shell) -> None:
    """
    Let the Matplotlib figures that a cell of this IPython `shell` shows carry the alt text of the cell.

    JupyterLab shows a PNG without any, and takes HTML before PNG. A cell that has no such line shows its PNG as ever.
    """
    if getattr(shell, "display_formatter", None) is None or hasattr(shell, "speaks_figures"):
        return
    shell.speaks_figures = True
    running = [""]

    def remember(info) -> None:
        running[0] = alt_text(info.raw_cell or "")
        if running[0] and (figures := sys.modules.get("matplotlib.figure")):
            figures.Figure._repr_html_ = as_html  # Matplotlib itself needs it for its WebAgg windows alone

    def as_html(figure) -> str | None:
        if not running[0]:
            return None
        figure.savefig(buffer := BytesIO(), format="png", bbox_inches="tight", facecolor=figure.get_facecolor())
        return image_with_alt(buffer.getvalue(), running[0])

    shell.events.register("pre_run_cell", remember)
