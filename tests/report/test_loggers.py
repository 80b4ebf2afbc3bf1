import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import auc

from lightning_ood.report import RunResults, log_run, scalars, summarise, write_metrics
from tests.helpers import event_files
from tests.helpers.wandb_files import read

SUMMARIES = {"nap": {"weight": 0.5, "AUROC % of training images (all)": 51.0, "form": "map", "curve": {"at": [1.0]}}}
FACTS = {"fit/nap/weight": 0.5, "fit/nap/AUROC_percent_of_training_images_all": 51.0}
USAGE = {"cost/fit_seconds": 1.5, "cost/test_images_per_second": 200.0}


def test_keys(scores):
    metrics = summarise(scores)
    values = scalars(metrics, 90.0)
    assert values["accuracy/id"] == 90.0
    assert len(values) == 1 + 6 * len(metrics)
    row = metrics.query("detector == 'nap' and dataset == 'mean' and group == 'far'").iloc[0]
    for name in ("auroc", "auroc_low", "auroc_high", "fpr95", "fpr95_low", "fpr95_high"):
        assert values[f"{name}/mean-far/nap"] == row[name]
    assert "fpr95/eights/msp" in values
    assert "accuracy/id" not in scalars(metrics)


def of_csv(folder):
    from lightning.pytorch.loggers import CSVLogger

    yield CSVLogger(folder, name="", version="")
    (row,) = pd.read_csv(folder / "metrics.csv").to_dict("records")
    yield row


def of_tensorboard(folder):
    pytest.importorskip("tensorboardX")
    from lightning.pytorch.loggers import TensorBoardLogger

    yield TensorBoardLogger(folder, name="", version="")
    found = event_files.values(folder)
    assert found["report/roc"].image.height == 8
    assert b"it is doubtful" in found["doubts/text_summary"].tensor.string_val[0]
    yield {key: value.simple_value for key, value in found.items() if value.HasField("simple_value")}


def of_mlflow(folder):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger("ood", tracking_uri=(folder / "mlruns").as_uri())
    yield logger
    client, run = logger.experiment, logger.run_id
    assert {file.path for path in (None, "report") for file in client.list_artifacts(run, path)} == {
        *("report", "report/roc.png", "metrics.csv")
    }
    yield client.get_run(run).data.metrics


@pytest.mark.parametrize("kind", [of_csv, of_tensorboard, of_mlflow])
def test_every_logger_gets_the_numbers_of_the_table(kind, wide, tmp_path, monkeypatch):
    """30 detectors and 8 sets are more numbers than MLflow takes at once."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    summaries = {"detector_0": SUMMARIES["nap"]}
    results = RunResults(wide, summaries=summaries, usage=USAGE, doubts={"detector_0": ["it is doubtful"]})
    path = write_metrics(results.metrics, tmp_path / "run")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture := tmp_path / "roc.png")
    found = kind(tmp_path / "logs")
    logger = next(found)
    log_run([logger], results, [picture], [path])
    held = next(found)
    expected = scalars(pd.read_csv(path), results.accuracy) | USAGE
    expected |= {key.replace("nap", "detector_0"): value for key, value in FACTS.items()}
    assert len(expected) > 1000
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
    scores = scores.replace({"dataset": {"photos": "my photos (10 %)"}})
    doubts = {"nap": ["it is doubtful"], "msp": ["it is doubtful"], "energy": []}
    results = RunResults(scores, summaries=SUMMARIES, usage=USAGE, doubts=doubts)
    logger, finish = offline
    log_run([logger], results, [picture, tmp_path / "index.html"])
    run = finish()
    summary, metrics = run.summary, results.metrics
    expected = scalars(metrics, 90.0) | USAGE | FACTS
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert summary["fit/nap/form"] == "map" and "auroc_low/my_photos_10_percent/nap" in expected
    assert all(re.fullmatch(r"[-\w./]+", key, re.ASCII) for key in summary), "no blank, bracket or percent sign"
    assert summary["metrics/nrows"] == len(metrics)
    assert summary["report/roc/format"] == "png"
    assert sum(summary["scores/eights/nap/values"]) == 40
    assert summary["scores/eights/nap/bins"] == summary["scores/id/nap/bins"]
    assert len(run.steps) == 1, "all in one step"
    (alert,) = run.alerts
    assert (alert.title, alert.level) == ("2 of 3 detectors are doubtful", "WARN")
    assert alert.text == "nap, msp: it is doubtful"
    curves = json.loads((run.folder / "files" / summary["roc/eights_table/path"]).read_text())
    points = pd.DataFrame(curves["data"], columns=curves["columns"]).query("detector == 'nap'")
    points = points.sort_values(["fpr", "tpr"])
    expected = metrics.query("detector == 'nap' and dataset == 'eights'")["auroc"].item()
    assert 100 * auc(points["fpr"], points["tpr"]) == pytest.approx(expected, abs=2)


def test_thirty_detectors_fit_into_the_charts(wide, offline):
    """W&B draws 10 000 points of a chart; a thumbnail is read once for all detectors that show it."""
    calls = []

    def thumbnail(name, index, path):
        calls.append((name, index))
        return Image.new("RGB", (200, 100))

    logger, finish = offline
    log_run(logger, RunResults(wide, read=thumbnail))
    run = finish()
    assert run.summary["examples/nrows"] == 30 * 2 * 5
    assert len(calls) == len(set(calls))
    for name in wide.query("role == 'ood'")["dataset"].unique():
        assert 1000 < run.summary[f"roc/{name}_table/nrows"] < 10_000
