"""Looking at a chapter in JupyterLab leaves git clean, and the threads of its kernel leave the processor to others.

The server of JupyterLab loads this module because setup.py puts assets/jupyter/ddpm_course.json where it looks for its
extensions. Its kernels inherit the environment variables that the package sets when it is imported: the chapters
themselves load torch first.
"""
from pathlib import Path

CHAPTERS = Path(__file__).resolve().parents[2] / "nbs"  # beside the package in a clone, nowhere in an installed wheel


def keep_metadata(model: dict, path: str, contents_manager, **_) -> None:
    """
    Leave the reader's own Python version and kernel title out of a chapter of this clone that is about to be saved.

    JupyterLab writes both into every notebook that it opens, and `nbdev_clean` takes them out again. `model`, `path`
    and `contents_manager` are those of a Jupyter server's pre-save hook; other notebooks are left as they are.
    """
    file = Path(contents_manager.root_dir, path.lstrip("/")).resolve()
    if model["type"] == "notebook" and file.is_relative_to(CHAPTERS):
        metadata = model["content"]["metadata"]
        metadata.pop("language_info", None)
        if "kernelspec" in metadata:
            metadata["kernelspec"]["display_name"] = metadata["kernelspec"]["name"]


def _load_jupyter_server_extension(server) -> None:
    server.contents_manager.register_pre_save_hook(keep_metadata)
