"""Whether a detector knows the training images rather than the classes: their scores against those of test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_ood.metrics.rates import Scores, auroc

PREFIX = "training_scores."


def training_auroc(fitted: Mapping[str, Tensor], id_scores: Scores) -> dict[str, Any]:
    """AUROC, in percent, of the training images whose scores a detector kept against ID test images.

    50 where they cannot be told apart. Images outside the subset that the detector was fitted on show what the network
    itself remembers of its training; what those inside have above them is the detector's own over-fitting.

    Args:
        fitted: of the detector; the scores are under ``training_scores.<which>``.
        id_scores: of the ID test images.

    Returns:
        A line of the report -> percent, for each such entry.
    """
    return {
        f"AUROC % of training images ({key.removeprefix(PREFIX)} the fitted subset) against ID test images": 100
        * auroc(scores.reshape(-1), id_scores)
        for key, scores in fitted.items()
        if key.startswith(PREFIX)
    }
