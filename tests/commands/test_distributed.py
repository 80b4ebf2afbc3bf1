"""One process, two or three: the same fit, the same score for every image, the same table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.helpers.runs import CORE, DETECTORS, Run, images

FILES = ("knn", "nnguide", "vim", "residual", "mds", "rmds", "fdbd")  # some hold one sketch together
FILES += ("she", "kl_matching", "nci", "vra", "react_search")
OWN = {
    "nac_maps": {
        "class_path": "lightning_ood.detectors.nac.NAC",
        "init_args": {"layers": {"block1": {"alpha": 1.0}, "pooled": {}}, "images": 20},
    },
    "nap_search": {
        "class_path": "lightning_ood.detectors.nap.NAP",
        "init_args": {"base": {"class_path": "lightning_ood.detectors.dice.DICE"}, "weight": "search"},
    },
    "fusion": {
        "class_path": "lightning_ood.detectors.combine.fusion.Fusion",
        "init_args": {
            "of": {
                "energy": {"class_path": "lightning_ood.detectors.energy.Energy"},
                "mds": {"class_path": "lightning_ood.detectors.mds.MDS"},
            }
        },
    },
    "block_norm": {"class_path": "lightning_ood.detectors.block_norm.BlockNorm", "init_args": {"match": True}},
}
MORE = (*FILES, *OWN)
ARGUMENTS = [part for name in FILES for part in (f"--scoring.detectors.{name}", DETECTORS / f"{name}.yaml")]
ARGUMENTS += [part for name, spec in OWN.items() for part in (f"--scoring.detectors.{name}", json.dumps(spec))]
for bank in ("knn", "nnguide"):
    ARGUMENTS += [f"--scoring.detectors.{bank}.init_args.k", 5, f"--scoring.detectors.{bank}.init_args.bank_size", 30]


def outcome(
    train: Run, config: Path, folder: Path, processes: int, *arguments: object
) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    where = ("--trainer.default_root_dir", folder, "--trainer.devices", processes)
    strategy = ("--trainer.strategy", "ddp") if processes > 1 else ()
    for job in ("fit", "test"):
        done = train(job, "--config", config, *arguments, *where, *strategy)
        assert done.returncode == 0, done.stderr
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    fitted = saved["callbacks"]["ScoringCallback"]["fitted"]
    return pd.read_parquet(folder / "scores.parquet"), pd.read_csv(folder / "metrics.csv"), fitted


def same_scores(scores: pd.DataFrame, expected: pd.DataFrame, processes: int) -> None:
    """To 1e-6 of a score and of its column's spread."""
    given = ["dataset", "role", "group", "index", "path", "label", "prediction"]
    pd.testing.assert_frame_equal(scores[given], expected[given])
    assert not scores.duplicated(["dataset", "index"]).any()
    for name in expected.columns.drop(given):
        tolerance = 1e-6 * expected[name].abs() + 1e-6 * (expected[name].max() - expected[name].min())
        assert ((scores[name] - expected[name]).abs() <= tolerance).all(), (name, processes)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(config: Path, train: Run, tmp_path: Path) -> None:
    """61, 23 and 17 images do not divide by 2 or 3; of 2 images on 3 processes, one process gets none."""
    scores, metrics, fitted = outcome(train, config, tmp_path / "one", 1, *ARGUMENTS)
    assert set(scores.columns) >= {*CORE, *MORE}
    for processes in (2, 3):
        scores_n, metrics_n, fitted_n = outcome(train, config, tmp_path / str(processes), processes, *ARGUMENTS)
        same_scores(scores_n, scores, processes)
        pd.testing.assert_frame_equal(metrics_n, metrics, check_exact=False, rtol=1e-6)
        said, expected = (pd.read_csv(tmp_path / name / "doubts.csv") for name in (str(processes), "one"))
        pd.testing.assert_frame_equal(said, expected)
        assert len(expected) > 3
        for name, tensors in fitted.items():
            for key, value in tensors.items():
                other = fitted_n[name][key]
                if key.endswith(("residual", "whitening", "background")):  # a basis: only what it spans is determined
                    other, value = other @ other.T, value @ value.T
                if value.is_floating_point():
                    scale = max(1.0, float(value.abs().max()))
                    torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6 * scale, msg=f"{name}.{key}")
                else:
                    assert torch.equal(other, value), f"{name}.{key}"


@pytest.mark.slow
def test_fewer_images_than_processes(config: Path, train: Run, tmp_path: Path) -> None:
    """Two images in every set: the third process gets none in either phase."""
    content = yaml.safe_load(config.read_text())
    content["model"]["network"]["init_args"] = {"num_classes": 2}
    content["data"]["id"] = {"name": "tints", "train": images(2, classes=2), "test": images(2, classes=2, seed=1)}
    content["data"]["ood"].pop("near/pale")
    config.write_text(yaml.safe_dump(content))
    few = [part for name in ("mds", "she") for part in (f"--scoring.detectors.{name}", DETECTORS / f"{name}.yaml")]
    scores, _, fitted = outcome(train, config, tmp_path / "one", 1, *few)
    assert len(scores) == 4
    scores_n, _, fitted_n = outcome(train, config, tmp_path / "three", 3, *few)
    same_scores(scores_n, scores, 3)
    assert torch.equal(fitted_n["nac"]["counts.pooled"], fitted["nac"]["counts.pooled"])
