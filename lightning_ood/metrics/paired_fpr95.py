"""Paired test of FPR95 between detectors that scored the same images, by the delta method.

The test accounts for the sampling of the test images, as in ``lightning_ood.metrics.intervals``. Where a detector's
value is a mean over repetitions (seeds, checkpoints), these are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_ood.metrics.intervals import delong
from lightning_ood.metrics.paired import Difference, Floats, normal_difference
from lightning_ood.metrics.rates import rank_95, threshold_95


@dataclass(frozen=True, eq=False)
class Decisions:
    """A detector's decisions at the threshold of FPR95 on one OOD set, in the order of the images.

    Attributes:
        rejected: ``[n]`` 1 for an ID image below the threshold, else 0; its mean over repetitions.
        accepted: ``[m]`` 1 for an OOD image at or above the threshold, else 0; its mean over repetitions.
        slope: growth of FPR95 per share of ID images that a lower threshold keeps.
    """

    rejected: Floats
    accepted: Floats
    slope: float

    @staticmethod
    def of(id_scores: Sequence[NDArray[Any]], ood_scores: Sequence[NDArray[Any]]) -> Decisions:
        """Averages decisions and slopes over repetitions of one detector, each with scores ``[n]`` and ``[m]``."""
        thresholds = [threshold_95(np.sort(part)) for part in id_scores]
        return Decisions(
            np.mean([part < t for part, t in zip(id_scores, thresholds, strict=True)], axis=0),
            np.mean([part >= t for part, t in zip(ood_scores, thresholds, strict=True)], axis=0),
            float(np.mean([_slope(np.sort(a), np.sort(b)) for a, b in zip(id_scores, ood_scores, strict=True)])),
        )


def _slope(id_scores: NDArray[Any], ood_scores: NDArray[Any]) -> float:
    """Fits a line to the share of accepted OOD images over the share of ID images below, near the threshold.

    The window is 1.5 standard deviations of the number of ID images below the true threshold to each side, at least
    three images; scores are in ascending order.
    """
    n = len(id_scores)
    half = max(3, round(1.5 * np.sqrt(0.05 * 0.95 * n)))
    rank = rank_95(n)
    window = id_scores[max(rank - half, 1) - 1 : rank + half]
    shares = np.searchsorted(ood_scores, window, side="left") / len(ood_scores)
    place = (np.arange(len(window)) - (len(window) - 1) / 2) / n
    return float(place @ shares / (place @ place)) if n > 1 else 0.0


def fpr95_difference(first: Sequence[Decisions], second: Sequence[Decisions]) -> Difference:
    """Tests the mean FPR95 (ID positive) over OOD sets that share the ID images, by the delta method.

    To first order FPR95 is a mean over the OOD images, which are accepted or not, plus one over the ID images, which
    move the threshold: an ID image below it adds the slope of FPR95 there. A difference is a mean of differences, and
    its variance follows from them as for AUROC (``intervals.delong``), covariances included. The paired bootstrap of
    this difference is too wide, as a bootstrap of quantiles is: it rejects equal detectors at 5 % in 0 to 4 % of
    simulations, this test in 3 to 5.5 % (``experiments/intervals``).

    A slope is uncertain: each is drawn halfway to the mean of both detectors. Half an ID image more is counted as
    judged differently, so that the variance is not zero where no ID image is.

    Args:
        first: decisions of the baseline, one per set.
        second: decisions of the other detector, for the same images in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    accepted = [b.accepted - a.accepted for a, b in pairs]
    estimate = float(np.mean([part.mean() for part in accepted]))
    if min(len(first[0].rejected), *map(len, accepted)) < 2:
        return Difference(estimate, -1.0, 1.0, 1.0)
    moved = [
        (3 * b.slope + a.slope) / 4 * b.rejected - (3 * a.slope + b.slope) / 4 * a.rejected for a, b in pairs
    ]  # [n] per set
    _, deviation = delong(np.mean(moved, axis=0), accepted)
    slope = np.mean([(a.slope + b.slope) / 2 for a, b in pairs])
    deviation = float(np.hypot(deviation, np.sqrt(0.5) * slope / len(moved[0])))
    return normal_difference(estimate, deviation)
