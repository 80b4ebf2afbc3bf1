"""A run's loggers through the command line; what W&B keeps offline is read back from its own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from lightning_ood.commands.cli import main
from lightning_ood.report import read_scores, scalars
from tests.helpers.runs import Run
from tests.helpers.wandb_files import Offline, read
from tests.helpers.wandb_server import wandb_server

pytestmark = pytest.mark.usefixtures("wandb_anew")

COSTS = ("seconds", "images_per_second", "peak_memory_gib")
TEST_IMAGES = 23 + 9 + 17 + 2
KEY = "0123456789abcdef0123456789abcdef01234567"


class Broken(CSVLogger):
    """A logger whose server is gone when the work is done."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        raise ConnectionError("nobody there")


class Gone(CSVLogger):
    """A logger whose server is gone before the work begins."""

    @property
    def experiment(self) -> Any:
        raise ConnectionError("no experiment")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no parameters")

    def log_metrics(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no metrics")

    def finalize(self, status: str) -> None:
        raise ConnectionError("no end")


def without_logger(config: Path, *detectors: str) -> dict[str, Any]:
    """The config with the usual logger and only these detectors, written in its place."""
    content: dict[str, Any] = yaml.safe_load(config.read_text())
    del content["trainer"]["logger"]
    content["scoring"]["detectors"] = {name: content["scoring"]["detectors"][name] for name in detectors}
    content["data"]["csid"] = {"dark": {**content["data"]["id"]["test"], "init_args": {"size": 9, "seed": 4}}}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return content


def in_artifact(held: Any) -> set[str]:
    """Names of the files; each is there with the size that was written down."""
    for entry in held.manifest.contents:
        assert entry.ref or Path(entry.local_path).stat().st_size == entry.size
    return {entry.path for entry in held.manifest.contents}


def table(run: Offline, key: str) -> pd.DataFrame:
    held = json.loads((run.folder / "files" / run.summary[f"{key}/path"]).read_text())
    return pd.DataFrame(held["data"], columns=held["columns"])


def upload(run: Offline) -> list[str]:
    """What `wandb sync` sends: all of it; returns the artifacts that are inputs of the run."""
    with wandb_server() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        command = [sys.executable, "-m", "wandb", "sync", str(run.folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = server.runs[run.run.run_id]
    assert (sent["jobType"], set(sent["tags"])) == (run.run.job_type, set(run.run.tags))
    assert sent.get("sweep", "") == run.run.sweep_id
    config = {key: value for key, value in run.config.items() if not key.startswith("_wandb")}
    assert {key: item["value"] for key, item in json.loads(sent["config"]).items() if key in config} == config
    summary = json.loads(server.lines["wandb-summary.json"][-1])
    numbers = {key: value for key, value in run.summary.items() if key.startswith(("auroc/", "fpr95/", "accuracy/"))}
    assert {key: summary[key] for key in numbers} == numbers
    assert any("auroc/mean-far/msp" in json.loads(line) for line in server.lines["wandb-history.jsonl"])
    for name, artifact in run.artifacts.items():
        assert name in server.committed
        for entry in artifact.manifest.contents:
            assert entry.ref or server.files[f"{name}/{entry.path}"] == Path(entry.local_path).read_bytes()
    for path in run.files:
        assert server.files[path.relative_to(run.folder / "files").as_posix()] == path.read_bytes()
    return server.used


@pytest.mark.slow
def test_an_offline_run_holds_everything(config: Path, train: Run, tmp_path: Path) -> None:
    """One call as an agent of W&B makes it: one run of fit and test."""
    without_logger(config, "msp", "react", "feature_norm")
    environment = {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "p1"}
    done = train("fit_test", "--config", config, **environment)
    assert done.returncode == 0 and "already in progress" not in done.stderr, done.stdout + done.stderr
    folder = tmp_path / "runs" / "tiny" / "p1"
    (place,) = folder.glob("wandb/offline-run-*")
    run = read(place)
    assert (run.run.run_id, run.run.sweep_id, run.run.job_type) == ("p1", "s1", "fit_test") and run.exit_code == 0
    assert set(run.run.tags) == {"tints", "Net"}
    assert run.config["scoring"]["detectors"]["react"]["init_args"]["percentile"] == 90.0, "a default, resolved"
    assert run.config["data"]["batch_size"] == 8 and run.config["lightning_ood"]

    metrics = pd.read_csv(folder / "metrics.csv")
    dark = read_scores(folder).query("role == 'csid'")
    expected = scalars(metrics) | {"accuracy/dark": 100 * (dark["label"] == dark["prediction"]).mean()}
    assert {f"cost/{job}_{what}" for job in ("fit", "test") for what in COSTS} < set(run.summary)
    assert run.summary["cost/test_images_per_second"] * run.summary["cost/test_seconds"] == pytest.approx(TEST_IMAGES)
    (step,) = (step for step in run.steps if "auroc/mean-far/msp" in step)
    assert {key: step[key] for key in expected} == pytest.approx(expected)
    assert {key: run.summary[key] for key in expected} == pytest.approx(expected)
    assert run.summary["fit/feature_norm/block"] in ("block1", "block2") and run.summary["fit/react/threshold"] > 0

    assert list(table(run, "metrics")["auroc"]) == pytest.approx(list(metrics["auroc"]))
    assert sum(run.summary["scores/pale/msp/values"]) == 17
    for name in ("report/roc", "report/blocks", "report/histograms"):
        assert (place / "files" / run.summary[f"{name}/path"]).is_file()
    assert run.summary["report/mistakes/captions"] == ["msp", "react", "feature_norm"]
    curve = table(run, "roc/pale_table").query("detector == 'msp'").sort_values(["tpr", "fpr"])
    assert {0.0, 1.0} <= set(curve["fpr"])
    assert set(table(run, "norm_ratio/feature_norm_table")["block"]) == {"block1", "block2"}
    worst = table(run, "examples").query("detector == 'msp' and kind == 'most confident OOD'")
    best = read_scores(folder).query("role == 'ood'")["msp"].nlargest(5)
    assert list(worst["score"]) == pytest.approx(list(best))

    assert in_artifact(run.artifacts["p1-checkpoint"]) == {"last.ckpt"}
    assert in_artifact(run.artifacts["p1-scores"]) == {
        "scores.parquet",
        "doubts.csv",
        "metrics.csv",
        "config.test.yaml",
        "index.html",
    }
    examples = run.artifacts["run-p1-examples"]
    (held,) = (
        json.loads(Path(e.local_path).read_text()) for e in examples.manifest.contents if e.path.endswith("json")
    )
    assert {row[2]["path"] for row in held["data"]} < in_artifact(examples), "thumbnails"
    assert run.files and all(path.is_file() for path in run.files)
    assert upload(run) == [], "its own checkpoint is no input"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path


def test_a_logger_that_fails_and_odd_names_lose_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = without_logger(config, "msp", "react")
    content["trainer"]["logger"] = {"class_path": f"{__name__}.Gone", "init_args": {"save_dir": "gone"}}
    content["data"]["ood"] = {"far/=$x$": content["data"]["ood"]["far/white"]}
    content["scoring"]["detectors"] = {"MSP": content["scoring"]["detectors"]["msp"], "msp": "MSP", "ré@$": "Energy"}
    config.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / os.fsdecode(b"caf\xe9")  # no UTF-8
    for job in ("fit", "test"):
        main([job, "--config", str(config), "--trainer.default_root_dir", str(run)])
    said = capsys.readouterr()
    for what in ("experiment", "parameters", "metrics", "end"):
        assert said.err.count(f"Gone failed (ConnectionError: no {what})") in (1, 2), "once a command"
    assert "caf\\udce9" in said.out
    assert set(read_scores(run)) >= {"MSP", "msp", "ré@$"}
    assert len(list((run / "report").glob("mistakes-*.png"))) == 3 and (run / "report" / "index.html").is_file()
    assert set(pd.read_csv(run / "metrics.csv")["dataset"]) == {"'=$x$", "fs/=$x$", "mean"}
    main(["report", str(run)])


@pytest.mark.slow
def test_fit_and_test_are_two_runs_of_a_group(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With loggers of the user's own beside each other, one of them broken, and a checkpoint that is too large."""
    content = without_logger(config, "msp", "react")
    csv = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    broken = {"class_path": "tests.commands.test_wandb.Broken", "init_args": {"save_dir": "broken"}}
    wandb = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"tags": ["mine"]}}
    content["trainer"]["logger"] = [broken, csv, wandb]
    config.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_ood.report.wandb_artifacts.LIMIT", 100)
    monkeypatch.setattr("lightning_ood.report.wandb_run._tables", lambda results: 1 / 0)
    for job, *options in (["fit"], ["test"], ["test", "--one_run"]):
        main([job, "--config", str(config), *options])
    said = capsys.readouterr()
    assert "Broken failed (ConnectionError: nobody there)" in said.err and "ZeroDivisionError" in said.err
    folder = tmp_path / "runs" / "tiny"
    runs = {run.run.job_type: run for run in map(read, folder.glob("wandb/offline-run-*"))}
    assert {job: run.exit_code for job, run in runs.items()} == {"fit": 0, "test": 0, "fit_test": 0}
    one = runs.pop("fit_test")
    assert one.run.run_id == runs["fit"].run.run_id and "tiny-checkpoint" not in one.artifacts
    assert {run.run.run_group for run in runs.values()} == {"tiny"}
    assert all(list(run.run.tags) == ["mine"] for run in runs.values())
    (checkpoint,) = runs["fit"].artifacts["tiny-checkpoint"].manifest.contents
    assert checkpoint.ref == (folder / "checkpoints" / "last.ckpt").as_uri() and not checkpoint.local_path
    used = runs["test"].artifacts["tiny-checkpoint"]
    assert used.use_after_commit and used.digest == runs["fit"].artifacts["tiny-checkpoint"].digest
    assert runs["test"].config["fit_run"] == runs["fit"].run.run_id
    expected = scalars(pd.read_csv(folder / "metrics.csv"))
    expected |= {key: runs["fit"].summary[key] for key in (f"cost/fit_{what}" for what in COSTS)}
    assert {key: runs["test"].summary[key] for key in expected} == pytest.approx(expected)
    assert "metrics/path" not in runs["test"].summary and "roc/pale_table/path" in runs["test"].summary
    of_fit, of_test, _ = (pd.read_csv(path) for path in sorted((tmp_path / "logs").rglob("metrics.csv")))
    assert set(of_fit) == {"step", *(f"cost/fit_{what}" for what in COSTS)}
    row = of_test.iloc[-1]
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert "tiny-checkpoint" in upload(runs["test"])
