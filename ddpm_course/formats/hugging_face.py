"""Folders of models that lie on the Hugging Face hub."""
import re
from pathlib import Path


def is_hub_id(name: str | Path) -> bool:
    here = Path(name)
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name))) and not here.exists() and not here.parent.exists()


def fetch_from_hub(name: str, wanted: list[str], revision: str | None) -> Path:
    "The folder into which `huggingface_hub` has put the `wanted` files of a repository. `ValueError` where it cannot."
    try:
        from huggingface_hub import snapshot_download  # not needed for anything else
    except ImportError:
        raise ValueError(f"{name!r} is no folder here; for an id on the hub, pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # whatever the network has come up with
        raise ValueError(f"{name!r} is no folder here, and the hub does not give it: {error}") from error
