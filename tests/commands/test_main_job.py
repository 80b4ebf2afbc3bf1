"""``fit`` and ``test`` as a user calls them, and what they leave behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lightning_ood.ops.checksums import weights_hash
from tests.helpers.runs import CORE, Run
from tests.helpers.tiny import Net

COLUMNS = ["dataset", "role", "group", "index", "path", "label", "prediction", *CORE]
METRICS = ["detector", "dataset", "group", "n_id", "n_ood", "auroc", "fpr95", "fpr95_ood_positive", "aupr_in"]
METRICS += ["aupr_out", "auroc_low", "auroc_high", "fpr95_low", "fpr95_high"]


def test_fit_then_test_leaves_the_contract_behind(config: Path, train: Run, tmp_path: Path) -> None:
    fitted = train("fit", "--config", config)
    assert fitted.returncode == 0, fitted.stderr
    assert "Fitted on 61 images" in fitted.stdout
    tested = train("test", "--config", config)
    assert tested.returncode == 0, tested.stderr

    run = tmp_path / "runs" / "tiny"  # the stem of the config
    scores = pd.read_parquet(run / "scores.parquet")
    assert list(scores.columns) == COLUMNS
    counts = scores.groupby(["dataset", "role", "group"], sort=False).size().to_dict()
    assert counts == {("tints", "id", "id"): 23, ("pale", "ood", "near"): 17, ("white", "ood", "far"): 2}
    for _, rows in scores.groupby("dataset"):
        assert rows["index"].tolist() == list(range(len(rows)))
    assert all(scores[name].dtype == "float32" for name in CORE) and scores[list(CORE)].notna().all(axis=None)

    metrics = pd.read_csv(run / "metrics.csv")
    assert list(metrics.columns) == METRICS
    assert len(metrics) == len(CORE) * (2 + 2), "two sets and two groups"
    assert metrics["auroc"].between(0, 100).all()

    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = saved["callbacks"]["ScoringCallback"]
    assert set(state["fitted"]) == set(state["spec"]) == {"react", "dice", "line", "nac", "feature_norm"}
    assert saved["state_dict"] == {}, "weights that were not trained stay out"
    assert len(saved["backbone"]["hash"]) == 64
    for name in ("config.yaml", "config.test.yaml"):
        assert yaml.safe_load((run / name).read_text())["data"]["batch_size"] == 8
    report = run / "report"
    assert {path.name for path in report.iterdir()} >= {"auroc.png", "histograms.png", "roc.png", "index.html"}
    about = json.loads((run / "provenance.json").read_text())
    assert [(x["dataset"], x["images"]) for x in about["images"]] == [("tints", 23), ("pale", 17), ("white", 2)]
    assert about["weights_sha256"] == saved["backbone"]["hash"] and re.fullmatch(r"[0-9a-f]{16}", about["fitted_on"])
    assert about["command"] == f"python train.py test --config {config}" and about["environment"]["torch"]
    assert "accuracy" in tested.stdout and str(run.relative_to(tmp_path)) in tested.stdout
    for name in CORE:
        assert name in tested.stdout
    assert train("leaderboard", "runs/tiny", "--out", "site").returncode == 0


def test_sets_are_added_and_left_out_by_name(config: Path, train: Run, tmp_path: Path) -> None:
    assert train("fit", "--config", config).returncode == 0
    other = ("--data.ood.far/mine", "{class_path: tests.helpers.tiny.Images, init_args: {size: 5, seed: 9}}")
    tested = train("test", "--config", config, "--data.ood.near/pale", "null", *other)
    assert tested.returncode == 0, tested.stderr
    scores = pd.read_parquet(tmp_path / "runs" / "tiny" / "scores.parquet")
    assert scores.groupby("dataset", sort=False).size().to_dict() == {"tints": 23, "white": 2, "mine": 5}


def test_detectors_are_overridden_added_and_left_out_by_name(config: Path, train: Run, tmp_path: Path) -> None:
    changed = (
        *("--scoring.detectors.react.init_args.threshold", 0.3),
        *("--scoring.detectors.mine", "lightning_ood.detectors.energy.Energy"),
        *("--scoring.detectors.mine.init_args.temperature", 2),
        *("--scoring.detectors.nac", "null"),
    )
    assert train("fit", "--config", config, *changed).returncode == 0
    tested = train("test", "--config", config, *changed)
    assert tested.returncode == 0, tested.stderr
    scores = pd.read_parquet(tmp_path / "runs" / "tiny" / "scores.parquet")
    assert "mine" in scores and "nac" not in scores
    saved = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "react" not in saved["callbacks"]["ScoringCallback"]["fitted"], "a fixed threshold needs no fit"

    other = train("test", "--config", config, *changed, "--scoring.detectors.dice.init_args.percentile", 50)
    assert other.returncode == 2
    assert "'dice' was fitted as" in other.stderr and "fit` again" in other.stderr


def test_what_needs_no_fit_is_scored_without_one(config: Path, train: Run) -> None:
    none = [part for name in CORE[3:] for part in (f"--scoring.detectors.{name}", "null")]
    tested = train("test", "--config", config, *none)
    assert tested.returncode == 0, tested.stderr
    needs = train("test", "--config", config)
    assert needs.returncode == 2
    assert "react, dice, line, nac, feature_norm must be fitted first" in needs.stderr
    assert f"python train.py fit --config {config}" in needs.stderr


def test_print_taps(config: Path, train: Run, tmp_path: Path) -> None:
    printed = train("fit", "--config", config, "--print_taps")
    assert printed.returncode == 0, printed.stderr
    for text in ("block1", "8 x 12 x 12", "last", "16 x 6 x 6", "4 logits"):
        assert text in printed.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_trained_network_is_kept_taken_over_and_not_overwritten(config: Path, train: Run, tmp_path: Path) -> None:
    training = ("--model.finetune", "all", "--trainer.max_epochs", 2, "--model.training.optimizer.init_args.lr", 0.01)
    first = train("fit", "--config", config, *training)
    assert first.returncode == 0, first.stderr
    again = train(
        "fit", "--config", config, *training, "--scoring.detectors.nac", "null", "--model.reading.cache", tmp_path / "c"
    )
    assert again.returncode == 0 and "Taking over the weights trained before" in again.stdout
    other = train("fit", "--config", config, *training[:-1], 0.02)
    assert other.returncode == 2 and "--overwrite" in other.stderr
    clipped = train("fit", "--config", config, *training, "--trainer.gradient_clip_val", 0.1)
    assert clipped.returncode == 2 and "--overwrite" in clipped.stderr
    tested = train("test", "--config", config, *training, "--scoring.detectors.nac", "null")
    assert tested.returncode == 0, tested.stderr
    saved = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "backbone.network.fc.weight" in saved["state_dict"]
    assert train("fit", "--config", config, *training[:-1], 0.02, "--overwrite").returncode == 0


def test_a_checkpoint_of_another_backbone_is_refused(config: Path, train: Run) -> None:
    assert train("fit", "--config", config).returncode == 0
    tested = train("test", "--config", config, "--model.network.init_args.seed", 1)
    assert tested.returncode == 2
    mine = weights_hash(Net(seed=1))[:12]
    assert (
        "was fitted on Net" in tested.stderr
        and f"the network now is Net, its own weights (weights: none) (weights {mine})" in tested.stderr
    )


def test_a_fit_in_another_precision_is_refused_and_not_kept(config: Path, train: Run) -> None:
    low = ("--trainer.precision", "bf16-mixed")
    assert train("fit", "--config", config, *low).returncode == 0
    assert train("test", "--config", config, *low).returncode == 0
    tested = train("test", "--config", config)
    assert tested.returncode == 2 and "--trainer.precision bf16-mixed, and this run has 32-true" in tested.stderr
    fitted = train("fit", "--config", config)
    assert fitted.returncode == 0 and "Keeping" not in fitted.stdout
    assert train("test", "--config", config).returncode == 0
