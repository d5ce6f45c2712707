"""Renders README.md from nbs/index.ipynb, so that the front page exists once.

    python scripts/readme.py            writes README.md
    python scripts/readme.py --check    exits with 1 where the two differ

Links and pictures are relative to nbs/ in the notebook and to the top folder in the README. Cells marked `#| hide` are
left out.
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def render() -> str:
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [c for c in notebook.cells if not re.match(r"#\|\s*hide\b", c.source)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|"))
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"\]\((?!https?:|#|\.\./)([^)]+)\)", r"](nbs/\1)", text)  # from nbs/ to the top folder
    return text.replace("](../", "](").strip() + "\n"


def main() -> int:
    readme, text = ROOT / "README.md", render()
    if "--check" in sys.argv:
        if readme.read_text(encoding="utf-8") != text:
            print("README.md is not what nbs/index.ipynb renders to; run: python scripts/readme.py", file=sys.stderr)
            return 1
        return 0
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
