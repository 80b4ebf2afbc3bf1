"""docs/extend.md, followed literally: its files are written, its commands run, its results looked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.runs import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text()
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(commands: str, folder: Path) -> str:
    """What commands print, as a reader of the page would see it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LIGHTNING_OOD_DATA", "PYTHONPATH")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**environment, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_page_is_true(tmp_path: Path) -> None:
    for name in ("lightning_ood", "configs", "train.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    printed = ""
    for name, language, text in BLOCK.findall(PAGE):
        if name:
            assert not (tmp_path / name).exists(), f"{name} is there already"
            (tmp_path / name).write_text(text)
        elif language == "bash":
            printed = " ".join(run(text, tmp_path).split())
        else:
            assert language == "text", f"a block of {language} without the name of a file"
            for line in text.splitlines():
                assert line in printed, f"{line!r} is not in what the commands before it print: {printed}"
    metrics = pd.read_csv(tmp_path / "runs" / "my" / "metrics.csv")
    assert {"energy", "norm"} == set(metrics["detector"])
    assert {"unknown", "eights", "stripes"} <= set(metrics["dataset"])
    for name in re.findall(r"`(\w[\w.]*)`", re.findall(r"`runs/my/` holds.*", PAGE)[0]):
        assert (tmp_path / "runs" / "my" / name).exists() or name == "runs", name
    assert (tmp_path / "runs" / "my" / "report" / "index.html").is_file()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
