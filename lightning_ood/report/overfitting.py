"""Measures over-fitting of a detector: its scores on training images against its scores on ID test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_ood.metrics.rates import Scores, auroc

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "training_scores."


def training_auroc(fitted: Mapping[str, Tensor], id_scores: Scores) -> dict[str, Any]:
    """Computes the AUROC in percent of stored training scores against the scores of ID test images.

    50 means that training and test images cannot be separated. Training images outside the fitted subset measure how
    much the network itself remembers; a higher value inside the subset is the detector's own over-fitting.

    Args:
        fitted: fitted tensors of the detector; the scores are stored as ``training_scores.<which>``.
        id_scores: scores of the ID test images.

    Returns:
        Line of the report -> percent, one per stored set of scores.
    """
    return {
        f"AUROC % of training images ({key.removeprefix(PREFIX)} the fitted subset) against ID test images": 100
        * auroc(scores.reshape(-1), id_scores)
        for key, scores in fitted.items()
        if key.startswith(PREFIX)
    }
