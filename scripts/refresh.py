"""Runs notebooks from top to bottom in a fresh kernel and saves them with their outputs.

    python scripts/refresh.py                      all chapters
    python scripts/refresh.py nbs/05_schedules.ipynb ...

Progress bars are off, warnings on stderr are an error (a reader should not see them), and outputs that only mean
something with a kernel (widgets) are left out: a static figure stands beside each. Running it twice changes nothing.
"""
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def skipped(cell) -> bool:
    lines = [line.replace(" ", "") for line in cell.source.splitlines()]
    return cell.cell_type != "code" or "#|eval:false" in lines


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    run = nbformat.v4.new_notebook(cells=[c for c in notebook.cells if not skipped(c)], metadata=notebook.metadata)
    for cell in run.cells:
        cell.outputs = []
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(run, timeout=600, kernel_name="python3", resources=folder).execute()
    for cell in run.cells:
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise SystemExit(f"{path.name}: a cell wrote to stderr: {output.text[:300]}\n{cell.source[:99]}")
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        cell.execution_count = None
        cell.metadata = {}
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
    nbformat.write(notebook, path)  # the cells are shared with `run`


def main(paths: list[str]) -> None:
    os.environ.update(TQDM_DISABLE="1", PYTHONHASHSEED="0")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    chapters = [Path(p) for p in paths] or sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts)
    for path in chapters:
        print(path.name, flush=True)
        refresh(path)
    subprocess.run(["nbdev_clean"], check=True, cwd=ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
