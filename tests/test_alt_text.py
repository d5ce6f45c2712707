"""What a cell says about its figure reaches those who cannot see it."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_course.lib.alt_text import alt_texts, image_with_alt

SHOW = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.gcf()"
CELLS = {"rises": SHOW, "unknown": SHOW, "grey": "show_images(torch.zeros(1, 1, 4, 4))"}
TEXTS = {"rises": "A rising <line>.", "grey": "One grey image."}
SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell, shown = InteractiveShell.instance(), {}
shell.run_cell("import torch; from ddpm_course.lib.viz import show_images", cell_id="first")
for name, source in json.loads(sys.argv[1]).items():
    figure = shell.run_cell(source, cell_id=name).result
    shown[name] = shell.display_formatter.format(figure)[0].get("text/html")
print("shown:", json.dumps(shown))
"""


@pytest.fixture
def notebook(tmp_path):
    "A notebook file whose cells say something about two of their figures."
    cells = [{"id": name, "metadata": {"fig-alt": TEXTS[name]} if name in TEXTS else {}} for name in CELLS]
    (tmp_path / "figures.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return tmp_path / "figures.ipynb"


def shown(session: Path | str) -> dict[str, str | None]:
    "The HTML of what each of `CELLS` shows in a shell whose front end names this notebook."
    environment = os.environ | {"JPY_SESSION_NAME": str(session), "MPLBACKEND": "agg"}
    run = subprocess.run([sys.executable, "-c", SHELL, json.dumps(CELLS)], env=environment, text=True, check=True,
                         capture_output=True)
    return json.loads(run.stdout.rpartition("shown: ")[2])


def test_a_file_says_what_its_figures_show(notebook, tmp_path):
    assert alt_texts(notebook) == TEXTS
    (tmp_path / "torn.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert alt_texts(tmp_path / "torn.ipynb") == alt_texts(tmp_path / "missing.ipynb") == alt_texts("") == {}


def test_html_is_escaped():
    assert image_with_alt(b"x", 'a "b" <c>', 7) == \
        '<img alt="a &quot;b&quot; &lt;c&gt;" width="7" src="data:image/png;base64,eA==">'


def test_figures_speak_where_the_running_cell_says_what_they_show(notebook):
    found = shown(notebook)
    assert found["rises"].startswith('<img alt="A rising &lt;line&gt;." src="data:image/png')
    assert found["grey"].startswith('<img alt="One grey image."')
    assert found["unknown"] is None  # not the text of the cell before


def test_figures_are_as_ever_where_no_front_end_names_the_file(tmp_path):
    assert set(shown("").values()) == set(shown(tmp_path / "missing.ipynb").values()) == {None}


def test_the_saved_figures_carry_it():
    for path in Path(__file__).parents[1].glob("nbs/**/[!_.]*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    alt = cell["metadata"]["fig-alt"]
                    assert output["metadata"]["image/png"]["alt"] == alt, f"{path.name}, {cell['id']}: refresh it"
