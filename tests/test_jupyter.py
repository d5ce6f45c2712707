"""What a JupyterLab server saves when a reader opens a chapter and does nothing else."""
import copy
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import ddpm_course

ROOT = Path(__file__).parent.parent
OURS = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
OPENED = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
          "language_info": {"name": "python", "version": "3.12.9"}}


class Server:
    "The part of a Jupyter server that an extension sees: the folder it shows, and a place for hooks."
    def __init__(self, root):
        self.hooks = []
        self.contents_manager = SimpleNamespace(root_dir=str(root), register_pre_save_hook=self.hooks.append)

    def save(self, path, kind="notebook"):
        content = {"metadata": copy.deepcopy(OPENED)}
        for hook in self.hooks:
            hook(model={"type": kind, "content": content}, path=path, contents_manager=self.contents_manager)
        return content["metadata"]


def started(root):
    "A server in `root` that has loaded the extension that setup.py tells it of."
    config = json.loads((Path(ddpm_course.__file__).parent / "assets/jupyter/ddpm_course.json").read_text())
    server = Server(root)
    for name in config["ServerApp"]["jpserver_extensions"]:
        importlib.import_module(name)._load_jupyter_server_extension(server)
    return server


@pytest.mark.parametrize("root, path", [(ROOT, "nbs/01_data.ipynb"), (ROOT, "/nbs/appendix/ledger.ipynb"),
                                        (ROOT / "nbs", "01_data.ipynb"), (ROOT.parent, f"{ROOT.name}/nbs/index.ipynb")])
def test_a_chapter_is_saved_with_the_metadata_that_it_has_in_git(root, path):
    assert started(root).save(path) == OURS


@pytest.mark.parametrize("path, kind", [("mine.ipynb", "notebook"), ("nbs_mine/01_data.ipynb", "notebook"),
                                        ("nbs/../mine.ipynb", "notebook"), ("nbs/01_data.ipynb", "file")])
def test_what_is_not_a_chapter_of_the_clone_is_saved_as_it_is(path, kind):
    assert started(ROOT).save(path, kind) == OPENED


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_that_metadata_is_what_every_notebook_has_in_git(path):
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"] == OURS
