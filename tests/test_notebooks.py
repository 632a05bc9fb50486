"""The example notebooks are what their scripts say, and run from the first cell to the last."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))


def test_every_script_has_its_notebook_and_they_agree(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    from notebooks import notebooks, stale

    assert notebooks()
    assert stale() == []
    assert {n.stem for n in NOTEBOOKS} == {s.stem for s in notebooks()}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own libraries
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Every cell runs, in an empty folder, in a kernel of this environment."""
    nbformat = pytest.importorskip("nbformat", reason="needs the group docs: uv run --group docs pytest -m slow")
    nbclient = pytest.importorskip("nbclient", reason="needs the group docs: uv run --group docs pytest -m slow")
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share" / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
