"""The ablations: results/ holds the table and the picture of each sweep file; the README has the command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lightning_ood.commands.sweep import space
from lightning_ood.commands.sweep.results import flat, label, markdown, short_names
from lightning_ood.report.table import METRIC_COLUMNS
from tests.helpers.runs import ROOT

SWEEPS = sorted(p for p in (ROOT / "experiments").rglob("*.yaml") if "\nmethod:" in p.read_text())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_table_and_picture_are_of_the_sweep(path: Path) -> None:
    made = path.parent / "results" / path.stem
    columns = pd.read_csv(made.with_suffix(".csv"), nrows=0).columns
    parameters = [name for name in columns if name not in METRIC_COLUMNS]
    table = pd.read_csv(made.with_suffix(".csv"), dtype=dict.fromkeys(parameters, str))
    points = [{name: label(value) for name, value in point.items()} for point in flat(space.read(path).grid())]
    wanted = {tuple(point[name] for name in parameters) for point in points}
    found = set(table[parameters].itertuples(index=False, name=None))
    assert {row for row in found if "any" not in row} == wanted, "every point of the grid, and no other"
    short = short_names(parameters)
    named = table.rename(columns=short)
    varied = [name for name in short.values() if named[name].nunique() > 1]
    assert made.with_suffix(".md").read_text() == markdown(named, varied)
    assert made.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    readme = (path.parent / "README.md").read_text()
    assert f"experiments/{path.parent.name}/" in readme and path.stem in readme
    assert f"results/{path.stem}.png" in readme or path.parent.name == "feature_norm", "a picture for a reader"
