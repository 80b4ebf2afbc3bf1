"""Published tables: the files hold what they say, cells are compared as they must be, and the command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jsonargparse
import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.reproduce.compare import compare, markdown
from experiments.reproduce.published import Table, merged, read, sets_of
from experiments.reproduce.run import name_of
from lightning_ood.commands.cli import main
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from tests.helpers.runs import ROOT, images

FOLDER = ROOT / "experiments" / "reproduce"
FILES = sorted((FOLDER / "tables").glob("*.yaml"), key=str)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_holds_what_it_says(path: Path) -> None:
    """Rows average to their published means, sets and configs exist, detectors can be made."""
    table = read(path)
    for column, sets in table.means.items():
        parts = [name for name, names in table.columns.items() if names[0] in sets]
        if len(parts) < len(sets):
            continue  # the cells are not published, or not known
        for row in table.rows:
            for metric, mean in row.cells[column].items():
                values = [row.cells[part].get(metric, np.nan) for part in parts]
                if not np.isnan(values).all():
                    assert np.mean(values) == pytest.approx(mean, abs=0.0101), (row.name, metric)
    wanted = {names[0] for names in table.columns.values()} | {name for sets in table.means.values() for name in sets}
    for files, _ in table.configs[:1]:
        found = sets_of(merged(files)["data"])
        assert wanted <= set(found)
        assert all(spec is not None for specs in found.values() for spec in specs)
    list_detectors()  # short names are those of imported classes
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Detector, "detector")
    for row in table.rows:
        assert row.detector or row.differs, f"{row.name} says why there is no detector for it"
        if row.detector:
            parser.instantiate_classes(parser.parse_object({"detector": row.spec}))


def row_of(table: str, name: str) -> tuple[dict[str, dict[str, float]], dict[str, object]]:
    """Published cells of a row, and the arguments that our detector has for it."""
    (row,) = [row for row in read(FOLDER / "tables" / f"{table}.yaml").rows if row.name == name]
    return row.cells, row.spec.get("init_args", {})


def test_published_arguments() -> None:
    for table in ("ash_cifar10", "ash_cifar100"):
        assert row_of(table, "ASH-B")[1]["percentile"] == 95
    percentiles = {"openood_cifar10": 65, "openood_cifar100": 65, "openood_imagenet200": 80, "openood_imagenet": 85}
    assert {table: row_of(table, "SCALE")[1]["percentile"] for table in percentiles} == percentiles
    assert row_of("feature_norm_imagenet", "FeatureNorm")[1]["block"] == "layer4.1"


def test_corrected_cells() -> None:
    cells = {name: row_of("feature_norm_resnet18", name)[0]["average"] for name in ("MSP", "ODIN", "Energy")}
    assert {name: cell["fpr95"] for name, cell in cells.items()} == {"MSP": 50.63, "ODIN": 29.14, "Energy": 29.66}
    wrn = row_of("feature_norm_wrn", "FeatureNorm")[0]
    assert (wrn["Places365"]["auroc"], wrn["average"]["auroc"]) == (90.91, 97.33)
    assert row_of("feature_norm_resnet18", "ODIN+norm")[0]["average"] == {"fpr95": 15.99, "auroc": 97.03}
    assert row_of("openood_imagenet_fs", "SCALE")[0] == {"near": {"auroc": 64.67}, "far": {"auroc": 88.85}}
    assert row_of("openood_imagenet_regnet", "NNGuide")[0] == {"near": {"auroc": 84.87}, "far": {"auroc": 97.17}}
    assert row_of("openood_imagenet", "NCI")[0] == {"near": {"auroc": 78.69}, "far": {"auroc": 95.53}}


@pytest.mark.parametrize("files", sorted({files for path in FILES for files, _ in read(path).configs}), ids=name_of)
def test_a_run_is_parsed(files: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the detectors of every row of every table that it serves."""
    tables = [table for table in map(read, FILES) if files in [each for each, _ in table.configs]]
    rows = {row.detector: row.spec for table in tables for row in table.rows if row.detector}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"scoring": {"detectors": {"*": None, **rows}}}))
    paths = [*(ROOT / file for file in files), tmp_path / "rows.yaml"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(part for path in paths for part in ("--config", str(path))), "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    assert set(yaml.safe_load(said.out)["scoring"]["detectors"]) == set(rows)


def table_file(folder: Path, config: Path, **changes: object) -> Path:
    content = {
        "title": "A table",
        "source": "A paper.",
        "checked": "By hand.",
        "network": "A network.",
        "fitted_on": "its images.",
        "metrics": ["fpr95", "auroc"],
        "configs": [{"files": [str(config)], "differs": "Tints."}],
        "columns": {"Pale": "pale", "White": ["whitest", "white"], "both": {"mean_of": ["pale", "white"]}},
        "rows": {
            "Energy": {"detector": "energy", "cells": "50/60 -/70 50/65"},
            "Energy, hot": {"detector": "odin", "arguments": {"temperature": 10.0}, "cells": "50 - -"},
            "Secret": {"differs": "unpublished code", "cells": "1/2 - -"},
        },
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def metrics(*rows: tuple[str, str, str, float, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["detector", "dataset", "group", "fpr95", "fpr95_low", "fpr95_high"])
    return table.assign(auroc=60.0, auroc_low=59.0, auroc_high=61.0)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return read(table_file(tmp_path, Path("configs/digits.yaml")))


def test_cells(table: Table) -> None:
    energy = [("energy", "pale", "far", 47, 44, 49.9), ("energy", "white", "far", 10.0, 9, 11)]
    found = compare(table, metrics(*energy, ("energy", "mean", "far", 28.5, 27, 30)), {"pale": "no folder"})
    cells = found.set_index(["row", "column", "metric"])
    pale = cells.loc[("Energy", "Pale", "fpr95")]
    assert pale["difference"] == -3 and pale["outside"] is True, "50 is above 49.9"
    assert cells.loc[("Energy", "Pale", "auroc"), "outside"] is False
    assert cells.loc[("Energy", "White", "auroc"), "set"] == "white" and ("Energy", "White", "fpr95") not in cells.index
    assert cells.loc[("Energy", "both", "fpr95"), ["ours", "set"]].tolist() == [28.5, "mean of far"]
    assert cells.loc[("Energy, hot", "Pale", "fpr95"), "why"] == "no folder"
    assert cells.loc[("Secret", "Pale", "fpr95"), "why"] == "unpublished code"
    page = markdown(table, found, ("my/config.yaml",), "")
    assert "| Energy | Pale | 47.0 [44.0, 49.9] | 50.00 | -3.0 \\* | 60.0 [59.0, 61.0] | 60.00 | +0.0 |" in page
    assert "White (white)" in page and "- Pale of Secret: unpublished code" in page

    third = ("energy", "third", "far", 10.0, 9, 11)
    other = compare(table, metrics(*energy, third, ("energy", "mean", "far", 20, 19, 21)), {})
    assert other[other["column"] == "both"]["ours"].isna().all(), "the mean of other sets"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["fpr"]}, "metrics are auroc"),
        ({"rows": {"Energy": {"detector": "energy", "cells": "50/60 -"}}}, "Energy: cells must be 3 times fpr95/auroc"),
        ({"rows": {"Energy": {"detectors": "energy", "cells": "- - -"}}}, "Energy: no key detectors"),
        ({"sauce": "x"}, "differing: sauce"),
    ],
)
def test_bad_files(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(table_file(tmp_path, Path("configs/digits.yaml"), **changes))


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / "run.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_the_command_computes_what_is_here(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    content = {
        "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
        "data": {
            "id": {"name": "tints", "train": images(61), "test": images(23, seed=1)},
            "ood": {"near/pale": images(17, shift=40, seed=2), "far/whitest": "no/such/folder"},
            "batch_size": 8,
        },
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
    }
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "gone").mkdir()
    gone = table_file(tmp_path / "gone", Path("configs/benchmarks/wisc_imagenet.yaml"), title="Another")
    done = call(table_file(tmp_path, config), gone, "--root", tmp_path, "--folder", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    cells = pd.read_csv(tmp_path / "out" / "reproduction.csv")
    assert (tmp_path / "out" / "reproduction.md").read_text().strip() in done.stdout
    mine = cells[cells["ours"].notna()].set_index(["row", "metric"])
    run = pd.read_csv(tmp_path / "out" / "tiny" / "metrics.csv").set_index(["detector", "dataset"])
    assert set(run.index.get_level_values(0)) == {"energy", "odin_temperature_10_0"}
    for row, detector in (("Energy", "energy"), ("Energy, hot", "odin_temperature_10_0")):
        assert mine.loc[(row, "fpr95"), "ours"] == pytest.approx(run.loc[(detector, "pale"), "fpr95"], rel=1e-5)
    assert "White of Energy: no/such/folder: no such folder" in done.stdout
    assert "- `mine`: train: id_data/ILSVRC-2012/train: no such folder" in done.stdout
    wrong = call("dice_cifar11")
    assert wrong.returncode == 2 and "no table dice_cifar11; there are ash_cifar10" in wrong.stderr
