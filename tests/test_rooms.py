"""Who may import whom: a chapter's module what stands before it, `lib` only itself, and nobody in a circle."""
import ast
import importlib
import json
import re
from pathlib import Path

import pytest

import ddpm_course

PACKAGE, NOTEBOOKS = Path(ddpm_course.__file__).parent, Path(__file__).parent.parent / "nbs"
MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py") if p.stem[0] != "_"}


def chapters() -> dict[str, str]:
    "The modules that notebooks export, in the order of the chapters: name -> notebook. Appendices come last."
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(NOTEBOOKS.glob("appendix/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if named := re.match(r"#\|\s*default_exp\s+(\S+)", "".join(cell["source"])):
                found[named[1]] = path.name
    return found


CHAPTERS = chapters()
BEFORE_SHARING = list(CHAPTERS)[:list(CHAPTERS).index("hub")]


def imports(name: str) -> set[str]:
    "The modules of the package that a module imports, wherever in the file it does so."
    found, home = set(), ("ddpm_course." + name).split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(home[:len(home) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {n for n in (f.removeprefix("ddpm_course.") for f in found if f.startswith("ddpm_course.")) if n in MODULES}


def allowed(name: str) -> set[str]:
    room = name.partition(".")[0]
    lib = {m for m in MODULES if m.startswith("lib.")}
    formats = {m for m in MODULES if m.startswith("formats.")}
    if room == "lib":
        return lib
    if room == "formats":
        return lib | formats | set(BEFORE_SHARING)
    if room in CHAPTERS:
        return lib | set(list(CHAPTERS)[:list(CHAPTERS).index(room)]) | (formats if room == "hub" else set())
    assert room in ("app", "check"), f"{name} stands in no room of the house"
    return set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name):
    assert not imports(name) - allowed(name)


def test_there_are_no_circles():
    left = {name: imports(name) - {name} for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or behind one: {sorted(left)}"


def test_every_room_says_what_it_is_for():
    for room in ("lib", "formats", "app", "check"):
        assert importlib.import_module(f"ddpm_course.{room}").__doc__.strip().count("\n") == 0


def test_the_rule_is_really_applied():
    assert {"forward", "lib.storage", "app.run", "formats.diffusers", "hub"} <= MODULES.keys()
    assert "forward" in imports("exact") and "lib.storage" in imports("lib.viz") and "training" in imports("app.run")
    assert "app.run" not in allowed("training") and "ddpm" not in allowed("forward")
