"""The notebooks run from top to bottom, and what is committed was made that way."""

import base64
import io
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from matplotlib.image import imread
from nbclient import NotebookClient

from gguf_jax.ops.native.library import available

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MAX_BYTES = 400_000
"""A committed notebook is no larger than this: plots are PNGs in it."""

ENCODE = {"02_quantization_error", "03_kl_divergence"}
"""Those that quantize whole models, to types with long searches among them."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def check_outputs(cell: nbformat.NotebookNode) -> None:
    """Nothing went wrong, nobody was warned, and pictures show something."""
    for output in cell.outputs:
        assert output.output_type != "error", f"{cell.id}: {output.ename}: {output.evalue}"
        assert output.get("name") != "stderr", f"{cell.id}: {output.text}"
        if "image/png" in output.get("data", {}):
            pixels = imread(io.BytesIO(base64.b64decode(output.data["image/png"])), format="png")
            assert pixels[..., :3].std() > 0, f"{cell.id}: a picture of one colour"


def kinds(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell gave: printed text, or what it showed by its richest form."""
    return [
        output.name if output.output_type == "stream" else max(output.data, key=lambda form: form.startswith("image/"))
        for output in cell.outputs
    ]


def slugs(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_notebooks():
    assert [path.stem[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_"]


@each_notebook
def test_a_committed_notebook_was_run_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        check_outputs(cell)
    assert path.stat().st_size < MAX_BYTES


@each_notebook
def test_links_of_a_notebook_lead_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", text)
    assert links
    for target, anchor in links:
        page = FOLDER / target
        assert page.is_file(), target
        assert not anchor or anchor in slugs(page.read_text("utf-8")), f"{target}#{anchor}"


@each_notebook
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    if path.stem in ENCODE and not available():
        pytest.skip("without the native library it would encode for many minutes")
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))  # a kernel of the user's is not this interpreter
    monkeypatch.delenv("MPLBACKEND", raising=False)
    here = tmp_path / "notebooks"
    here.mkdir()
    for text in FOLDER.glob("*.txt"):
        shutil.copy(text, here)
    notebook = nbformat.read(path, as_version=4)
    committed = [kinds(cell) for cell in code_cells(notebook)]
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(here)}},
    )
    client.execute()
    for cell, expected in zip(code_cells(notebook), committed, strict=True):
        check_outputs(cell)
        assert kinds(cell) == expected, cell.id
    assert any("image/png" in expected for expected in committed)
    assert {left.suffix for left in here.iterdir()} == {".txt"}
