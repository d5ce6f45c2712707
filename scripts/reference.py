"""Writes the reference pages of the modules that are plain Python, one a folder, to nbs/reference/ for the site.

    python scripts/reference.py

The chapters document the modules that they export. These pages are made before the site is built, from signatures and
docstrings, and are not in git: so a reader's kernel needs nothing for them.
"""
import ast
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "nbs" / "reference"
ROOMS = ("lib", "formats", "app", "check")


def source_url() -> str:
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return "{git_url}/blob/{branch}/".format(**settings["DEFAULT"])


def public(body: list) -> list:
    "The functions and classes of a module or a class that others may use."
    return [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]


def signature(node, inside: str = "") -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}" + (f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else "")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{inside}{node.name}({ast.unparse(node.args)}){returns}"


def describe(node, path: str, level: int = 3, inside: str = "") -> list[str]:
    "A heading that links to the source, the signature, the docstring; then the methods of a class."
    parts = [f"{'#' * level} [{inside}{node.name}]({source_url()}{path}#L{node.lineno})",
             f"```python\n{signature(node, inside)}\n```", ast.get_docstring(node) or ""]
    methods = public(node.body) if isinstance(node, ast.ClassDef) else []
    return parts + [part for method in methods for part in describe(method, path, level + 1, f"{node.name}.")]


def page(room: str) -> str:
    folder = ROOT / "ddpm_course" / room
    about = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    parts = [f"# ddpm_course.{room}", ast.get_docstring(about)]
    for file in sorted(folder.glob("[!_]*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        parts += [f"## {room}.{file.stem}", ast.get_docstring(module)]
        parts += [part for node in public(module.body) for part in describe(node, file.relative_to(ROOT).as_posix())]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for room in ROOMS:
        (OUT / f"{room}.md").write_text(page(room), encoding="utf-8")


if __name__ == "__main__":
    main()
