"""Runs notebooks from top to bottom in a fresh kernel and saves them with their outputs.

    python scripts/refresh.py                      all chapters
    python scripts/refresh.py nbs/05_schedules.ipynb ...

Progress bars are off, warnings on stderr are an error (a reader should not see them), and outputs that only mean
something with a kernel (widgets) are left out: a static figure stands beside each. Cells that the web pages leave out
(`#| hide`) or fold (`#| code-fold: true`) are folded, so that JupyterLab shows one line of them. Running it twice
changes nothing.
The entries that the chapters write to the ledger of equations are merged into nbs/appendix/ledger.json, and the
ledger's own notebook, which prints them, is run last.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from ddpm_course.lib.alt_text import KEY
from ddpm_course.lib.ledger import equation_order, find_equations, read_ledger

ROOT = Path(__file__).parent.parent
LEDGER = ROOT / "nbs" / "appendix" / "ledger.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def has(cell, directive: str) -> bool:
    return directive in (line.replace(" ", "") for line in cell.source.splitlines())


def skipped(cell) -> bool:
    return cell.cell_type != "code" or has(cell, "#|eval:false")


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    run = nbformat.v4.new_notebook(cells=[c for c in notebook.cells if not skipped(c)], metadata=notebook.metadata)
    for cell in run.cells:
        cell.outputs = []
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(run, timeout=600, kernel_name="python3", resources=folder, coalesce_streams=True).execute()
    notebook.metadata.pop("widgets", None)  # their state, under random names
    for cell in run.cells:
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise SystemExit(f"{path.name}: a cell wrote to stderr: {output.text[:300]}\n{cell.source[:99]}")
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        keep_alt_text(cell)
        cell.execution_count = None
        folded = has(cell, "#|hide") or has(cell, "#|code-fold:true")
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == KEY} | (
            {"jupyter": {"source_hidden": True}} if folded else {})
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
    nbformat.write(notebook, path)  # the cells are shared with `run`


def keep_alt_text(cell) -> None:
    "The PNG of a figure with the alt text of its cell, as web pages and nbconvert want it."
    for output in cell.outputs:
        if KEY in cell.metadata and "image/png" in output.get("data", {}):
            output.metadata["image/png"] = output.metadata.get("image/png", {}) | {"alt": cell.metadata[KEY]}


def merge_ledger(fresh: Path) -> None:
    "Fresh entries replace those of the chapters that ran; entries of equations that no longer exist go."
    new, file = read_ledger(fresh), LEDGER.with_suffix(".json")
    ran = {entry["equation"].split(".")[0] for entry in new}
    old = [entry for entry in read_ledger(file) if entry["equation"].split(".")[0] not in ran]
    places = find_equations(ROOT / "nbs")
    entries = sorted((entry for entry in old + new if entry["equation"] in places), key=equation_order)
    file.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(paths: list[str]) -> None:
    os.environ.update(TQDM_DISABLE="1", PYTHONHASHSEED="0", DDPM_COURSE_PROGRESS="")  # see scripts/test.py
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    chapters = [Path(p) for p in paths] or sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if p.name[0] != "_" and ".ipynb_checkpoints" not in p.parts)
    chapters = [p for p in chapters if p.resolve() != LEDGER]
    with tempfile.TemporaryDirectory() as fresh:
        os.environ["DDPM_COURSE_LEDGER"] = fresh
        for path in [*chapters, LEDGER]:
            print(path.name, flush=True)
            if path == LEDGER:
                merge_ledger(Path(fresh))
            refresh(path)
        merge_ledger(Path(fresh))  # the ledger's notebook has an equation of its own
    subprocess.run(["nbdev_clean"], check=True, cwd=ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
