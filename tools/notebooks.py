"""Executes the notebooks once: the tests and the documentation site share what they gave, in ``build/notebooks``.

python -m tools.notebooks
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
EXECUTED = ROOT / "build" / "notebooks"
NEEDED = ("lightning_ood", "configs", "train.py")


def execute(path: Path) -> nbformat.NotebookNode:
    """Executes a notebook in an empty folder, as a reader does, and stores it with its outputs.

    Raises:
        CellExecutionError: if a cell fails.
    """
    with tempfile.TemporaryDirectory() as place:
        for name in NEEDED:
            (Path(place) / name).symlink_to(ROOT / name)
        folder = Path(place) / "notebooks"
        folder.mkdir()
        hidden = ("PYTHONPATH", "LIGHTNING_OOD_DATA")  # nothing but the notebook's own first cell
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment |= {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(Path(place) / "ipython")}
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True
        )
        client.execute(env=environment)
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, _stored(path))
    return notebook


def executed(path: Path) -> str:
    """Returns a notebook with its outputs as JSON, from an earlier execution where nothing has changed since."""
    if not _stored(path).is_file():
        execute(path)
    return _stored(path).read_text(encoding="utf-8")


def _stored(path: Path) -> Path:
    """Names the executed copy by the content of the notebook, the package and the configs."""
    digest = hashlib.sha256(path.read_bytes())
    for folder, pattern in (("lightning_ood", "*.py"), ("configs", "*.yaml")):
        for file in sorted((ROOT / folder).rglob(pattern)):
            digest.update(file.read_bytes())
    return EXECUTED / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"


if __name__ == "__main__":
    for each in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed(each)
