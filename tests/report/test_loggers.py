import csv
import json

import numpy as np
import pytest
from PIL import Image

from lightning_ood.report import accuracy, log_run, scalars, summarise


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


@pytest.mark.slow
def test_offline_wandb_run(scores, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    picture = tmp_path / "roc.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    metrics = summarise(scores)
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    log_run([logger], metrics, scores, accuracy=accuracy(scores), pictures=[picture, tmp_path / "index.html"])
    run = logger.experiment
    summary = dict(run.summary)
    run.finish()
    assert {key: summary[key] for key in scalars(metrics, 90.0)} == pytest.approx(scalars(metrics, 90.0))
    assert summary["metrics"]["nrows"] == len(metrics)
    assert summary["report/roc"]["format"] == "png"
    histogram = summary["scores/eights/nap"]
    assert sum(histogram["values"]) == 40
    assert histogram["bins"] == summary["scores/id/nap"]["bins"]
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    held = json.loads(table.read_text())
    assert held["columns"] == list(metrics.columns)
    assert len(held["data"]) == len(metrics)
