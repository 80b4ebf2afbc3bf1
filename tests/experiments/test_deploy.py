"""The simulation of exported detectors runs, and its page quotes its tables."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.helpers.runs import ROOT

FOLDER = ROOT / "experiments" / "deploy"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_run", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(simulation: ModuleType) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    role = np.repeat(["id", "ood"], [1000, 300])
    scores = {name: rng.normal(size=1300) - 5 * (role == "ood") for name in simulation.DETECTORS}
    sets = {"dataset": np.where(role == "id", "id", "textures"), "role": role, "prediction": rng.integers(0, 10, 1300)}
    return pd.DataFrame({**sets, **scores})


def test_the_tables_can_be_made(simulation: ModuleType, table: pd.DataFrame) -> None:
    accepted = list(simulation.acceptance(table, 20))
    assert all(abs(float(row[3][:-1]) - float(row[2][:-1])) < 3 for row in accepted) and len(accepted) == 12
    assert all(float(row[2][:-1]) < 14 and float(row[4][:-1]) > 80 for row in simulation.discoveries(table, 20))
    assert len(list(simulation.by_class(table, 5))) == 6
    assert all(float(row[3][:-1]) <= 40 for row in simulation.false_alarms(table, 5, 500))


def test_the_page_quotes_its_tables() -> None:
    page = (FOLDER / "README.md").read_text()
    for name in ("acceptance", "by_class", "discoveries", "false_alarms", "delays"):
        rows = (FOLDER / "results" / f"{name}.md").read_text().splitlines()
        quoted = [row for row in rows if name not in ("acceptance", "delays") or row.startswith("| fusion")]
        assert all(row in page for row in quoted), name
