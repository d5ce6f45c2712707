"""What holds for the project as a whole: the front page, the table of contents, the shape of the notebooks."""
import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import runpy
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


def test_the_example_in_the_readme_runs(monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    example = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)[1]
    names = {}
    exec(example, names)  # noqa: S102
    assert names["images"].shape == (10, 1, 28, 28)


def test_the_sidebar_lists_every_notebook_and_every_reference_page():
    sidebar = re.findall(r"- (\S+\.(?:ipynb|md))$", (ROOT / "nbs" / "sidebar.yml").read_text(encoding="utf-8"), re.M)
    pages = [f"reference/{p.parent.name}.md" for p in (ROOT / "ddpm_course").glob("*/__init__.py")]
    assert sorted(sidebar) == sorted([*(p.relative_to(ROOT / "nbs").as_posix() for p in NOTEBOOKS), *pages])


def test_the_reference_pages_show_every_public_function_of_the_plain_modules(monkeypatch, tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "reference.py"))
    monkeypatch.setitem(script["main"].__globals__, "OUT", tmp_path)
    script["main"]()
    for file in (ROOT / "ddpm_course").glob("*/[!_]*.py"):
        room, text = file.parent.name, (tmp_path / f"{file.parent.name}.md").read_text(encoding="utf-8")
        module = importlib.import_module(f"ddpm_course.{room}.{file.stem}")
        assert f"## {room}.{file.stem}\n\n{module.__doc__.strip()}\n" in text
        for name, thing in vars(module).items():
            if name[0] != "_" and inspect.isroutine(thing) and thing.__module__ == module.__name__:
                line = inspect.getsourcelines(inspect.unwrap(thing))[1]
                lines = file.read_text(encoding="utf-8").splitlines()
                at = next(n for n in range(line, len(lines) + 1) if lines[n - 1].startswith("def "))
                assert f"### [{name}](" in text and f"{room}/{file.name}#L{at})" in text


def test_the_contributor_map_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## I want to change")[2].partition("\n## ")[0]
    homes = [ROOT, ROOT / "tests", *(p.parent for p in (ROOT / "ddpm_course").rglob("__init__.py"))]
    files = re.findall(r"`([\w/*]+\.(?:pyi?|ipynb))`", table)
    assert len(files) > 40 and not [f for f in files if not any(list(home.glob(f)) for home in homes)]
    assert not [p for p in (ROOT / "ddpm_course").glob("*/[!_]*.py") if f"{p.name}`" not in table]


def test_the_versions_of_python_are_the_same_wherever_they_are_named():
    text = {name: (ROOT / name).read_text(encoding="utf-8")
            for name in (".github/workflows/test.yaml", "README.md", "CONTRIBUTING.md", "setup.py", "settings.ini")}
    tested = re.findall(r'"3\.(\d+)"', re.search(r"python: \[(.*)\]", text[".github/workflows/test.yaml"])[1])
    assert tested == [str(v) for v in range(int(tested[0]), int(tested[-1]) + 1)]
    span = f"Python 3.{tested[0]} to 3.{tested[-1]}"
    assert span in text["README.md"] and span in text["CONTRIBUTING.md"]
    assert f"for minor in ({', '.join(tested)})" in text["setup.py"]
    assert re.search(rf"^min_python = 3\.{tested[0]}$", text["settings.ini"], re.M)


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
                assert max(map(len, source.splitlines())) <= 120, f"a line that is too long to read: {source[:80]}"
            assert not re.search(r"^#\s*\|\s*fig-alt", source, re.M), "alt text belongs in the metadata of its cell"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_are_there_and_clean(path):
    code = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in code for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    for cell in code:
        hidden = re.search(r"^#\s*\|\s*(hide|code-fold: true)\s*$", "".join(cell["source"]), re.M) is not None
        metadata = {name: value for name, value in cell["metadata"].items() if name != "fig-alt"}
        assert metadata == ({"jupyter": {"source_hidden": True}} if hidden else {}), "run scripts/refresh.py"
        shows = any("image/png" in output.get("data", {}) for output in cell["outputs"])
        assert not shows or cell["metadata"].get("fig-alt"), f"a figure without alt text: {cell['source'][:2]}"
    if any("print(" in "".join(c["source"]) for c in code):
        assert outputs, "a reader on a page without a kernel would see nothing; run scripts/refresh.py"


def test_links_to_equations_and_sections_land():
    """
    In JupyterLab a link from another notebook finds a cell by its id, and only so; on the site it finds an anchor. One
    name serves both: the cell `eq-2-7` holds the anchor `cell-id=eq-2-7` and the formula with the tag (2.7).
    """
    cells, links = {}, []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"]) + "".join("".join(output.get("data", {}).get("text/markdown", []))
                                                     for output in cell.get("outputs", []))
            cells.setdefault(path, {})[cell["id"]] = text
            links += [(path, target, name) for target, name in re.findall(
                r"""(?:\]\(|href=")((?:\.\./)?(?:[\w/]+\.ipynb)?)#([\w=-]+)[)"]""", text)]
    assert len(links) > 100
    for source, target, name in links:
        there = cells[(source.parent / target).resolve() if target else source]
        assert any(f'<a id="{name}"></a>' in text for text in there.values()), f"{source.name}: {target}#{name}"
        if name.startswith("cell-id="):
            assert f'<a id="{name}"></a>' in there.get(name[8:], ""), f"{source.name}: {target}#{name}"
        elif target:
            raise AssertionError(f"{source.name}: #{name} in another notebook is not found, expected #cell-id={name}")
    for path, found in cells.items():
        for cell, text in found.items():
            for tag in re.findall(r"\\tag\{([\w.]+)\}", text):
                assert cell == f"eq-{tag.replace('.', '-')}", f"{path.name}: ({tag}) stands in the cell {cell}"


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
