"""The notebooks run from start to end, and are stored without what they gave."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.runs import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=str)
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@by_name
def test_no_output_is_stored(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        stored = cell.get("outputs") or cell.get("execution_count") or cell.metadata
        assert not stored, f"{path.name}, {cell.id}: clear the outputs and save again (CONTRIBUTING.md)"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.slow
@by_name
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning_ood", "configs", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)  # nothing but the notebook's own first cell
    monkeypatch.delenv("LIGHTNING_OOD_DATA", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in said and "error:" not in said, said  # of the commands that it calls
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and all(len(base64.b64decode(picture)) > 5000 for picture in pictures)
