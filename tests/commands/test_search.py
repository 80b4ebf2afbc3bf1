"""Weights and hyper-parameters that are searched, and fusions, from the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.helpers.runs import DETECTORS, ROOT, Run, images

SEARCHING = ("nap_m", "nap_k", "react_search", "fusion")


def with_searches(config: Path) -> Path:
    content = yaml.safe_load(config.read_text())
    content["data"]["val_ood"] = {"glow": images(9, shift=90, seed=4), "dusk": images(7, shift=-60, seed=5)}
    chosen = {name: str(DETECTORS / f"{name}.yaml") for name in SEARCHING}
    chosen["on_images"] = {
        "class_path": "lightning_ood.detectors.combine.search.Search",
        "init_args": {"of": str(DETECTORS / "energy.yaml"), "grid": {"temperature": [0.5, 4.0]}, "pseudo_ood": []},
    }
    content["scoring"]["detectors"] = chosen
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return config


def test_everything_is_found_in_one_pass(config: Path, train: Run, tmp_path: Path) -> None:
    path = with_searches(config)
    change = ("--scoring.detectors.react_search.init_args.grid", '{"percentile": [70, 95]}')
    small = ("--scoring.detectors.nap_k.init_args.held_out", "0.15")
    fitted = train("fit", "--config", path, *change, *small)
    assert fitted.returncode == 0, fitted.stderr
    assert "Fitted on 61 images" in fitted.stdout, "validation OOD images are not counted as training images"
    state = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    found = state["callbacks"]["ScoringCallback"]["fitted"]
    assert found["react_search"]["criterion"].numel() == 2 and found["fusion"]["id_scores"].shape == (61, 3)
    assert found["nap_m"]["curve"].numel() == 21 and 0 <= float(found["nap_m"]["weight"]) <= 1
    assert len(found["nap_k"]["base.bank"]) < 61
    # Energy against the sixteen validation images, over the 61 training images: a multiple of 1 / (2 * 61 * 16).
    ranks = found["on_images"]["criterion"].double() * 2 * 61 * 16
    torch.testing.assert_close(ranks, ranks.round(), rtol=0, atol=1e-6)
    tested = train("test", "--config", path, *change, *small)
    assert tested.returncode == 0, tested.stderr
    metrics = pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")
    assert set(metrics["detector"]) == {*SEARCHING, "on_images"}


def test_a_search_without_its_images_says_what_to_give(config: Path, train: Run) -> None:
    path = with_searches(config)
    content = yaml.safe_load(path.read_text())
    del content["data"]["val_ood"]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    fitted = train("fit", "--config", path)
    assert fitted.returncode == 2 and "data.val_ood" in fitted.stderr and "on_images" in fitted.stderr


@pytest.mark.slow
def test_digits_with_a_searched_weight_and_percentile(train: Run, tmp_path: Path) -> None:
    added = tmp_path / "searches.yaml"
    chosen = {name: str(DETECTORS / f"{name}.yaml") for name in ("nap_e", "react_search", "fusion")}
    added.write_text(yaml.safe_dump({"scoring": {"detectors": chosen}}))
    both = ("--config", ROOT / "configs" / "digits.yaml", "--config", added, "--trainer.default_root_dir", tmp_path)
    for job in ("fit", "test"):
        done = train(job, *both, timeout=580)
        assert done.returncode == 0, done.stderr
    metrics = pd.read_csv(tmp_path / "metrics.csv").set_index(["detector", "dataset"])["auroc"]
    assert metrics["fusion"].drop("mean").min() > 95 and metrics["nap_e", "digits_8_9"] > 95
