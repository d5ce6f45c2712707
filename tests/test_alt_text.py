"""What a cell says about its figure reaches those who cannot see it."""
import json
from pathlib import Path

import nbformat
import pytest

from ddpm_course.lib.alt_text import alt_text, image_with_alt

FIGURE = """import matplotlib.pyplot as plt
from ddpm_course.lib.viz import show_images
"""


def test_the_line_of_a_cell():
    assert alt_text("#| fig-alt: A line: it rises.\nplt.plot()") == "A line: it rises."
    assert alt_text("#| hide\n#|fig-alt:  two bells \nx") == "two bells"
    assert alt_text("plt.plot()  # no such line") == alt_text("") == ""


def test_html_is_escaped():
    assert image_with_alt(b"x", 'a "b" <c>', 7) == \
        '<img alt="a &quot;b&quot; &lt;c&gt;" width="7" src="data:image/png;base64,eA==">'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    "The data of what four cells show in a kernel."
    pytest.importorskip("nbclient")
    from nbclient import NotebookClient
    show = "plt.plot([1, 2]); plt.show()"
    cells = ["import torch\n" + FIGURE, f"#| fig-alt: A rising <line>.\n{show}", show,
             "#| fig-alt: One grey image.\nshow_images(torch.zeros(1, 1, 4, 4))"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MPLBACKEND", raising=False)  # a reader has none, a test run may
        NotebookClient(notebook, kernel_name="python3", timeout=300).execute()
    return [[o["data"] for o in cell.outputs] for cell in notebook.cells]


def test_figures_in_a_kernel_speak_where_their_cell_says_what_they_show(outputs):
    nothing, with_line, without, images = outputs
    assert nothing == [] and [len(each) for each in outputs] == [0, 1, 1, 1]
    assert with_line[0]["text/html"].startswith('<img alt="A rising &lt;line&gt;." src="data:image/png')
    assert images[0]["text/html"].startswith('<img alt="One grey image."')
    assert "text/html" not in without[0] and all("image/png" in each[0] for each in (with_line, without, images))


def test_the_saved_figures_carry_it():
    for path in Path(__file__).parents[1].glob("nbs/**/[!_.]*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            alt = alt_text("".join(cell["source"]))
            for output in cell.get("outputs", []):
                if alt and "image/png" in output.get("data", {}):
                    assert output["metadata"]["image/png"]["alt"] == alt, f"{path.name}, {cell['id']}: refresh it"
