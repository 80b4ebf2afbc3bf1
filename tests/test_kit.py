"""The published CIFAR-10 DenseNet on real images, against numbers measured by an independent implementation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import ROOT, Run

# detector -> FPR95 / AUROC on textures, sun, tiny_imagenet, as measured with another implementation
EXPECTED = {
    "msp": ((66.9, 87.8), (62.7, 89.4), (69.0, 86.8)),
    "maxlogit": ((60.2, 87.0), (42.4, 93.0), (52.3, 90.1)),
    "energy": ((59.2, 86.9), (41.2, 93.1), (50.9, 90.1)),
    "react": ((46.3, 90.9), (39.6, 92.3), (48.0, 89.3)),
    "dice": ((46.9, 87.9), (38.7, 92.8), (53.1, 88.7)),
    "line": ((28.8, 94.7), (38.8, 93.2), (55.8, 87.0)),
    "nap": ((22.7, 94.9), (60.4, 84.7), (77.2, 72.0)),
    "nac": ((25.7, 94.3), (68.5, 78.8), (75.7, 73.3)),
    "feature_norm": ((31.6, 92.0), (52.1, 87.7), (68.5, 79.8)),
    "fusion": ((7.7, 98.5), (20.4, 96.6), (40.7, 91.7)),
}


@pytest.mark.kit
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cifar10_densenet(train: Run, kit: Path, tmp_path: Path) -> None:
    config = ROOT / "configs" / "cifar10_densenet.yaml"
    where = ("--config", config, "--trainer.logger", "false")
    for job in ("fit", "test"):
        done = train(job, *where, timeout=1500, LIGHTNING_OOD_DATA=str(kit), OMP_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr
    assert "accuracy 94.0" in done.stdout
    run = tmp_path / "runs" / "cifar10_densenet"
    metrics = pd.read_csv(run / "metrics.csv").set_index(["detector", "dataset"])
    for detector, cells in EXPECTED.items():
        for dataset, (fpr95, auroc) in zip(("textures", "sun", "tiny_imagenet"), cells, strict=True):
            found = metrics.loc[(detector, dataset)]
            assert found["auroc"] == pytest.approx(auroc, abs=0.2 + 0.05), (detector, dataset)
            assert found["fpr95"] == pytest.approx(fpr95, abs=1.0 + 0.05), (detector, dataset)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    norm = saved["callbacks"]["ScoringCallback"]["fitted"]["feature_norm"]
    assert norm["ratios"].tolist() == pytest.approx([0.92, 0.98, 1.13], abs=0.02)
    assert norm["block"].item() == 2, "the last map"
