"""What holds for the project as a whole: the front page, the table of contents, the shape of the notebooks."""
import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_course.lib.ledger import find_equations, read_ledger

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p.stem for p in (ROOT / "ddpm_course").glob("*.py") if not p.stem.startswith("_"))


def cells(path):
    return [(c["cell_type"], "".join(c["source"])) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def test_readme_is_what_the_index_notebook_renders_to():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "readme.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_links_and_pictures_of_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)
    assert targets and not [t for t in targets if not (ROOT / t).exists()]


def test_the_sidebar_lists_every_notebook():
    sidebar = (ROOT / "nbs" / "sidebar.yml").read_text(encoding="utf-8")
    assert not [p.name for p in NOTEBOOKS if p.relative_to(ROOT / "nbs").as_posix() not in sidebar]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_module_exists(module):
    loaded = importlib.import_module(f"ddpm_course.{module}")
    assert loaded.__all__ and not [name for name in loaded.__all__ if not hasattr(loaded, name)]


def test_every_module_is_written_in_exactly_one_chapter():
    homes = [m for p in NOTEBOOKS for _, s in cells(p) for m in re.findall(r"^#\|\s*default_exp\s+(\S+)", s, re.M)]
    assert sorted(homes) == MODULES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_shape_of_a_chapter(path):
    sources = cells(path)
    prose = "\n".join(re.sub(r"```.*?```", "", s, flags=re.S) for kind, s in sources if kind == "markdown")
    assert len(re.findall(r"^# \S", prose, re.M)) == 1, "one first-level heading"
    assert re.search(r"^# .+\n+> .+", prose), "a one-line summary under the title"
    tags = re.findall(r"\\tag\{([\w.]+)\}", prose)
    assert len(tags) == len(set(tags)), "an equation number is used twice"
    assert not re.search(r"!\[\]\(", prose), "a picture without alt text"
    for kind, source in sources:
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", source), f"a control character, a lost backslash?: {source[:80]}"
        if kind == "code":
            assert "%%capture" not in source, "assertions under %%capture never fail"
            if re.match(r"#\|\s*export", source):
                a_class = isinstance(ast.parse(source).body[0], ast.ClassDef)  # which cannot be cut into cells
                assert a_class or len(source.splitlines()) <= 45, f"a cell that is too long to read: {source[:80]}"
            elif "plt.show()" in source:
                assert "fig-alt" in source, f"a figure without alt text: {source[:80]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_are_there_and_clean(path):
    code = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in code for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    for cell in code:
        hidden = re.search(r"^#\s*\|\s*hide\s*$", "".join(cell["source"]), re.M) is not None
        assert cell["metadata"] == ({"jupyter": {"source_hidden": True}} if hidden else {}), "run scripts/refresh.py"
    if any("print(" in "".join(c["source"]) for c in code):
        assert outputs, "a reader on a page without a kernel would see nothing; run scripts/refresh.py"


def test_every_equation_has_its_entry_in_the_ledger():
    equations = set(find_equations(ROOT / "nbs"))
    committed = read_ledger(ROOT / "nbs" / "appendix" / "ledger.json")
    assert {e["equation"] for e in committed} == equations, "run scripts/refresh.py"
    for entry in committed:
        assert entry["compared"] > 0 and entry["error"] <= entry["allowed"]
        if entry["symbol"]:  # the code that the table names exists
            pkgutil.resolve_name(f"ddpm_course.{entry['symbol']}")


@pytest.mark.skipif("DDPM_COURSE_LEDGER" not in os.environ, reason="the notebooks were not run beside this")
def test_the_notebooks_of_this_run_checked_every_equation():
    fresh = read_ledger(os.environ["DDPM_COURSE_LEDGER"])
    committed = read_ledger(ROOT / "nbs" / "appendix" / "ledger.json")
    assert [(e["equation"], e["claim"]) for e in fresh] == [(e["equation"], e["claim"]) for e in committed]
