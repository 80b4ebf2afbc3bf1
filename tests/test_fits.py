"""What the detectors of a run have fitted, where some cannot."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.react import ReAct
from lightning_ood.suite import computed
from lightning_ood.testing.toy import Reads, Toy


def test_one_that_cannot_be_fitted_does_not_take_the_others_along() -> None:
    """Neighbours that are not there, and features that are not finite, whose covariance no solver takes apart."""
    toy = Toy()
    batch = toy(toy.train(), Reads())
    infinite = replace(batch, pooled=batch.pooled.index_fill(0, torch.tensor([3]), torch.inf))
    detectors: dict[str, Detector] = {"knn": KNN(10_000), "mds": MDS(), "react": ReAct()}
    for name, detector in detectors.items():
        detector.setup(toy.info(batch.labels))
        detector.update(infinite if name == "mds" else batch)
    fits: dict[str, dict[str, Tensor]] = {}
    refused = computed(detectors, fits)
    assert list(fits) == ["react"]
    assert [line[:27] for line in refused] == ["detector 'knn': k=10000 ask", "detector 'mds': linalg.eigh"]
