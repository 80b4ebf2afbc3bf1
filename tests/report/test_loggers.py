import csv
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import auc

from lightning_ood.report import accuracy, log_run, scalars, summarise
from tests.helpers.wandb_files import read


def test_keys(scores):
    metrics = summarise(scores)
    values = scalars(metrics, 90.0)
    assert values["accuracy/id"] == 90.0
    assert len(values) == 1 + 2 * len(metrics)
    row = metrics.query("detector == 'nap' and dataset == 'mean' and group == 'far'").iloc[0]
    assert values["auroc/mean-far/nap"] == row["auroc"]
    assert values["fpr95/mean-far/nap"] == row["fpr95"]
    assert "fpr95/eights/msp" in values
    assert "accuracy/id" not in scalars(metrics)


def test_csv_logger_gets_the_scalars(scores, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    metrics = summarise(scores)
    logger = CSVLogger(tmp_path, name="", version="")
    log_run(logger, metrics, scores, accuracy=None)
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {key: float(row[key]) for key in scalars(metrics)} == pytest.approx(scalars(metrics))


def test_tensorboard_gets_the_scalars(scores, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is no requirement")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = summarise(scores)
    log_run(TensorBoardLogger(tmp_path, name="", version=""), metrics, scores, accuracy=None)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    held = {key: events.Scalars(key)[-1].value for key in events.Tags()["scalars"]}
    expected = scalars(metrics)
    assert {key: held[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_accuracy_on_shifted_sets(scores):
    metrics = summarise(scores)
    metrics.attrs["shifted"] = {"sketches": (40, 70.0), "unlabelled": (5, None)}
    values = scalars(metrics, 90.0)
    assert (values["accuracy/sketches"], values["accuracy/id"]) == (70.0, 90.0)
    assert "accuracy/unlabelled" not in values


@pytest.fixture
def offline(tmp_path, monkeypatch, wandb_anew):
    """A logger, and what its run left behind when it is called."""
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)

    def finish():
        logger.experiment.finish()
        return read(next(tmp_path.glob("wandb/offline-run-*")))

    return logger, finish


def test_offline_wandb_run(scores, tmp_path, offline):
    picture = tmp_path / "roc.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    metrics = summarise(scores)
    logger, finish = offline
    log_run([logger], metrics, scores, accuracy=accuracy(scores), pictures=[picture, tmp_path / "index.html"])
    run = finish()
    summary = run.summary
    assert {key: summary[key] for key in scalars(metrics, 90.0)} == pytest.approx(scalars(metrics, 90.0))
    assert summary["metrics/nrows"] == len(metrics)
    assert summary["report/roc/format"] == "png"
    assert sum(summary["scores/eights/nap/values"]) == 40
    assert summary["scores/eights/nap/bins"] == summary["scores/id/nap/bins"]
    assert len(run.steps) == 1, "all in one step"
    curves = json.loads((run.folder / "files" / summary["roc/eights_table/path"]).read_text())
    points = pd.DataFrame(curves["data"], columns=curves["columns"]).query("lineKey == 'nap'")
    points = points.sort_values(["step", "lineVal"])
    expected = metrics.query("detector == 'nap' and dataset == 'eights'")["auroc"].item()
    assert 100 * auc(points["step"], points["lineVal"]) == pytest.approx(expected, abs=2)


def test_thirty_detectors_fit_into_the_charts(wide, offline):
    """W&B draws 10 000 points of a chart; a thumbnail is read once for all detectors that show it."""
    calls = []

    def thumbnail(name, index, path):
        calls.append((name, index))
        return Image.new("RGB", (200, 100))

    logger, finish = offline
    log_run(logger, summarise(wide), wide, accuracy=None, read=thumbnail)
    run = finish()
    assert run.summary["examples/nrows"] == 30 * 2 * 5
    assert len(calls) == len(set(calls))
    for name in wide.query("role == 'ood'")["dataset"].unique():
        assert 1000 < run.summary[f"roc/{name}_table/nrows"] < 10_000
