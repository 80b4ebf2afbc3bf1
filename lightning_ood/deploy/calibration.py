"""The scores of held-out ID images, from which every threshold and p-value follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import Batch
from lightning_ood.deploy import conformal
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.suite import DetectorSuite

FEWEST = 19  # calibration images without which no acceptance of 0.95 rejects anything


@dataclass(frozen=True)
class Calibration:
    """Scores of n calibration images: ID images on which nothing was fitted.

    Attributes:
        scores: detector -> ``[n]`` float32.
        predictions: ``[n]`` int64, predicted classes.
        labels: ``[n]`` int64, -1 where an image has none.
        origin: where the images are from, for the model card.
    """

    scores: Mapping[str, np.ndarray]
    predictions: np.ndarray
    labels: np.ndarray
    origin: str = ""

    def __len__(self) -> int:
        return len(self.predictions)

    @cached_property
    def ordered(self) -> dict[str, np.ndarray]:
        """Detector -> its scores ``[n]`` in ascending order."""
        return {name: np.sort(values) for name, values in self.scores.items()}

    @property
    def accuracy(self) -> tuple[int, int]:
        """Number of calibration images that are classified correctly, and of those that have a label."""
        labelled = self.labels >= 0
        return int((self.predictions == self.labels)[labelled].sum()), int(labelled.sum())

    def check_name(self, name: str) -> str:
        """Returns the name of a detector; raises InputError if there is none."""
        if name not in self.scores:
            raise InputError(f"there is no detector {name!r} in this folder; {write_one_of(name, self.scores)}")
        return name

    def p_values(self, name: str, scores: np.ndarray, predictions: np.ndarray | None = None) -> np.ndarray:
        """Computes the p-values ``[B]`` of scores ``[B]``, within the predicted classes ``[B]`` where these are given.

        See :func:`conformal.p_values` and :func:`conformal.class_p_values`.
        """
        scores = scores.astype(np.float32)
        if predictions is None:
            return conformal.p_values(scores, self.ordered[name])
        return conformal.class_p_values(scores, predictions, self.scores[name], self.predictions)

    def threshold(self, name: str, accept: float) -> float:
        """Returns the score of a detector below which an image is OOD."""
        return conformal.threshold(self.ordered[name], accept)


@torch.inference_mode()
def calibrate(
    backbone: Backbone, suite: DetectorSuite, batches: Iterable[Batch], device: torch.device | str, origin: str = ""
) -> Calibration:
    """Scores the calibration images.

    Args:
        backbone: configured for the test pass of ``suite``.
        suite: fitted.
        batches: preprocessed calibration images.
        device: where the network is.
        origin: where the images are from.

    Raises:
        InputError: if there are fewer than 19 images, or a score is not finite.
    """
    scores, predictions, labels = [], [], []
    for batch in batches:
        if len(batch.index) == 0:
            continue
        features = backbone(batch.image.to(device), index=batch.index)
        scores.append(suite.score(features).cpu())  # [B, detectors]
        predictions.append(features.prediction.cpu())
        labels.append(batch.label)
    count = sum(map(len, scores))
    if count < FEWEST:
        raise InputError(
            f"{count} calibration images ({origin}): p-values below 0.05 need at least {FEWEST}, a few hundred make "
            "the guarantee tight; give more ID images that were not fitted on"
        )
    table = torch.cat(scores)
    _check_finite(table, list(suite.detectors), origin)
    columns = dict(zip(suite.detectors, table.T.contiguous().numpy(), strict=True))
    return Calibration(columns, torch.cat(predictions).numpy(), torch.cat(labels).numpy(), origin)


def _check_finite(table: Tensor, names: list[str], origin: str) -> None:
    for name, column in zip(names, table.T, strict=True):
        if not column.isfinite().all():
            first = int((~column.isfinite()).nonzero()[0])
            raise InputError(f"detector {name!r} gives image {first} of {origin} no finite score; leave it out")
