"""The notebooks run from top to bottom, on digits and on a folder of photos."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.pages import PROJECT, make_grocery_store_dataset

nbformat = pytest.importorskip("nbformat", reason="the notebooks need the extra docs")
nbclient = pytest.importorskip("nbclient", reason="the notebooks need the extra docs")

FOLDER = PROJECT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 200_000  # of a notebook with what it printed and drew


def read(path):
    return nbformat.read(path, as_version=4)


def run(path, folder, monkeypatch, **parameters):
    """What all cells printed, with other values in the cell of parameters."""
    notebook = read(path)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    programs = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([programs, os.environ["PATH"]]))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole_and_small(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_BYTES
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not any(output.output_type == "error" for output in cell.outputs)
            assert cell.execution_count, "committed as it was run"


@pytest.mark.slow
def test_your_photos_run_on_digits(tmp_path, monkeypatch):
    out = run(FOLDER / "your_photos_in_ten_minutes.ipynb", tmp_path, monkeypatch)
    assert (tmp_path / "runs/notebook/report.html").exists()
    right, of = re.findall(r"^(\d+) of (\d+) right", out, re.MULTILINE)[0]
    assert (int(right) >= 12, of) == (True, "16")


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.usefixtures("published")
def test_your_photos_run_on_photos(tmp_path, shared, monkeypatch):
    make_grocery_store_dataset(tmp_path, shared / "data/grocery.zip")
    photos = str(tmp_path / "GroceryStoreDataset/dataset/train/Fruit/Apple")
    path = FOLDER / "your_photos_in_ten_minutes.ipynb"
    out = run(path, tmp_path, monkeypatch, photos=photos, epochs=2)
    assert "80 to learn from, 20 to measure with" in out
    right, _ = re.findall(r"^(\d+) of (\d+) right", out, re.MULTILINE)[0]
    assert int(right) >= 12


@pytest.mark.slow
def test_how_small_it_gets_on_digits(tmp_path, monkeypatch):
    path = FOLDER / "how_small_can_it_get.ipynb"
    out = run(path, tmp_path, monkeypatch, sizes=(60_000, 20_000))
    found = re.findall(r"^ *([\d,]+) bytes, +[\d.]+ times smaller, accuracy ([\d.]+)", out, re.M)
    sizes = [int(size.replace(",", "")) for size, _ in found]
    assert 54_000 < sizes[0] <= 60_000
    assert 16_000 < sizes[1] <= 20_000
    assert float(found[0][1]) > 0.7
    assert re.search(r"^codes +[\d,]+$", out, re.MULTILINE)
