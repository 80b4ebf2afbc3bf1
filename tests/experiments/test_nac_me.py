"""The experiment's arithmetic, and that its command runs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "nac_me"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nac_me_report", FOLDER / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoints() -> pd.DataFrame:
    """One training of 7 epochs; accuracy under shift rises, but for the last epoch."""
    accuracy = [10.0, 20, 30, 40, 50, 60, 55]
    table = pd.DataFrame({"seed": 0, "epoch": range(1, 8), "train_accuracy": 100.0})
    table["val_accuracy"] = [50.0, 60, 70, 80, 90, 90, 90]
    table["nac_me alpha=0.1 O=500"] = accuracy
    for shift in ("rotation", "blur", "noise", "contrast"):
        for strength in (1, 2):
            table[f"accuracy {shift} {strength}"] = [a + strength for a in accuracy]
    return table


def test_correlations_and_picks(report: ModuleType) -> None:
    rc = report.correlations(checkpoints()).set_index(["criterion", "shift"])["rc"]
    assert rc["nac_me alpha=0.1 O=500", "shift"] == pytest.approx(100)
    # Ranks 1 2 3 4 6 6 6 against 1 2 3 4 5 7 6: 26 / sqrt(26 * 28) = 0.96362
    assert rc["val_accuracy", "blur"] == pytest.approx(96.362, abs=1e-3)
    assert rc[["train_accuracy"]].isna().all(), "the same at every epoch"

    chosen = report.picks(checkpoints()).set_index("criterion")
    assert chosen["accuracy"].to_dict() == pytest.approx(
        {
            "val_accuracy": (50 + 60 + 55) / 3 + 1.5,
            "train_accuracy": 265 / 7 + 1.5,
            "nac_me alpha=0.1 O=500": 61.5,
            "last": 56.5,
            "mean": 265 / 7 + 1.5,
            "oracle": 61.5,
        }
    )
    assert chosen["epoch"].tolist() == ["3 tied", "7 tied", 6, 7, "all", 6]


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--seeds", "1", "--epochs", "2", "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "checkpoints.csv")) == 2
    assert "validation accuracy" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "correlation.png").stat().st_size > 10_000
