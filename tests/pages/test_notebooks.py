"""The notebooks run from start to end, and are stored without what they gave; the site shows what they gave here."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
import pytest

from tests.helpers.runs import ROOT
from tools.notebooks import execute, executed

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
def test_it_runs(path: Path) -> None:
    notebook = execute(path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in said and "error:" not in said, said  # of the commands that it calls
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and all(len(base64.b64decode(picture)) > 5000 for picture in pictures)
    assert nbformat.reads(executed(path), as_version=4) == notebook, "the site executes nothing again"
