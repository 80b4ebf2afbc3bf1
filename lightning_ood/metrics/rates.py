"""Exact AUROC, FPR95 and AUPR of in-distribution (ID) against out-of-distribution (OOD) scores, with ties.

Higher score = more in-distribution. The raw scores are sorted once per set and every metric is a count of sorted
scores, without binning and without a sigmoid: torchmetrics' curve metrics apply one to scores outside [0, 1], and in
float32 it saturates for energies. Values are fractions; ``metrics.csv`` and the tables are in percent.

Two definitions of FPR95 are in use and can differ by any amount; both are computed:

* ``fpr95``: ID is the positive class. The share of OOD images that are accepted (score >= t) by the largest threshold
  t that keeps at least 95 % of the ID images: t is the k-th largest ID score, k = ceil(0.95 n). Ties are accepted.
* ``fpr95_ood_positive`` (OpenOOD v1.5): OOD is the positive class. The share of ID images that are flagged (score
  <= t) by the smallest t that detects at least 95 % of the OOD images. Taken from the full ROC curve; scikit-learn's
  default drops collinear points and can give a larger value.

AUPR is average precision, a sum over steps of recall. OpenOOD integrates the precision-recall curve by trapezoids from
precision 1 at recall 0, with other, mostly larger values: ``aupr_in_trapezoid`` and ``aupr_out_trapezoid``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_ood.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("auroc", "fpr95", "fpr95_ood_positive", "aupr_in", "aupr_out")
TRAPEZOID = ("aupr_in_trapezoid", "aupr_out_trapezoid")  # on request
Scores: TypeAlias = "Tensor | ArrayLike"


def count_95(n: int) -> int:
    """Computes ceil(0.95 n) in integers, because 0.95 has no exact binary form."""
    return -(-19 * n // 20)


def rank_95(n: int) -> int:
    """Returns the rank of the threshold that keeps 95 % of ``n`` ID scores, counted from 1 at the smallest score."""
    return n - count_95(n) + 1


def threshold_95(ordered: NDArray[Any]) -> Any:
    """Returns the largest threshold that keeps at least 95 % of ID scores ``[n]`` in ascending order; a scalar."""
    return ordered[rank_95(len(ordered)) - 1]


def falls(metric: str) -> bool:
    """Whether lower values of a metric are better."""
    return metric.startswith("fpr95")


def sort_scores(scores: Scores, name: str = "scores") -> NDArray[np.floating]:
    """Checks scores of any shape and sorts them in ascending order and their own precision: ``[n]``.

    Raises:
        InputError: if there is no score, or a score is not finite.
    """
    values = _array(scores).ravel()
    if values.size == 0:
        raise InputError(f"no {name}; give at least one ID and one OOD image")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(
            f"{bad.size} of {values.size} {name} not finite; the first is {values[bad[0]]} at position {bad[0]}"
        )
    return np.sort(values)


def _array(scores: Any) -> NDArray[Any]:
    """Returns scores as an array; tables of scores are read without torch, so it is not imported for them."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu()
        return np.asarray(scores if scores.dtype in (torch.float32, torch.float64) else scores.double())
    return np.asarray(scores)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Sorted ID and OOD scores and the metrics counted from them; built by :func:`compare`.

    Attributes:
        id: ``[n]`` ID scores, ascending.
        ood: ``[m]`` OOD scores, ascending.
    """

    id: NDArray[np.floating]
    ood: NDArray[np.floating]

    @cached_property
    def _ood_below_id(self) -> NDArray[np.int64]:
        """Number of OOD scores below each ID score, ``[n]``."""
        return np.searchsorted(self.ood, self.id, side="left")

    @cached_property
    def _id_upto_ood(self) -> NDArray[np.int64]:
        """Number of ID scores at or below each OOD score, ``[m]``."""
        return np.searchsorted(self.id, self.ood, side="right")

    @cached_property
    def id_placements(self) -> NDArray[np.float64]:
        """Share of the OOD images below each ID image, ties counted half, ``[n]``; their mean is the AUROC."""
        return (self._ood_below_id + np.searchsorted(self.ood, self.id, side="right")) / (2 * len(self.ood))

    @cached_property
    def ood_placements(self) -> NDArray[np.float64]:
        """Share of the ID images above each OOD image, ties counted half, ``[m]``; their mean is the AUROC."""
        return 1 - (self._id_upto_ood + np.searchsorted(self.id, self.ood, side="left")) / (2 * len(self.id))

    @property
    def auroc(self) -> float:
        """Probability that an ID image scores higher than an OOD image, ties counted half."""
        return float(self.id_placements.mean())

    @property
    def fpr95(self) -> float:
        """Share of the OOD images accepted by the threshold that keeps 95 % of the ID images."""
        accepted = len(self.ood) - int(np.searchsorted(self.ood, threshold_95(self.id), side="left"))
        return accepted / len(self.ood)

    @property
    def fpr95_ood_positive(self) -> float:
        """Share of the ID images flagged by the threshold that detects 95 % of the OOD images."""
        threshold = self.ood[count_95(len(self.ood)) - 1]
        return int(np.searchsorted(self.id, threshold, side="right")) / len(self.id)

    @property
    def aupr_in(self) -> float:
        """Average precision with ID as the positive class."""
        # The sum of recall step x precision over thresholds is the mean precision at the positives' own scores.
        true = len(self.id) - np.searchsorted(self.id, self.id, side="left")
        false = len(self.ood) - self._ood_below_id
        return float(np.mean(true / (true + false)))

    @property
    def aupr_out(self) -> float:
        """Average precision with OOD as the positive class, lowest scores first."""
        true = np.searchsorted(self.ood, self.ood, side="right")
        return float(np.mean(true / (true + self._id_upto_ood)))

    @property
    def aupr_in_trapezoid(self) -> float:
        """Area under the precision-recall curve by trapezoids, ID positive (OpenOOD)."""
        return _trapezoids(self.id, self.ood)

    @property
    def aupr_out_trapezoid(self) -> float:
        """Area under the precision-recall curve by trapezoids, OOD positive (OpenOOD)."""
        return _trapezoids(-self.ood[::-1], -self.id[::-1])

    def values(self, names: Sequence[str] = METRICS) -> dict[str, float]:
        """Computes metrics, of :data:`METRICS` and :data:`TRAPEZOID`, as fractions."""
        return {name: getattr(self, name) for name in names}


def _trapezoids(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Integrates precision over recall linearly between all thresholds, from sorted scores."""
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    true, false = (len(part) - np.searchsorted(part, thresholds, side="left") for part in (positive, negative))
    precision = np.concatenate([[1.0], true / (true + false)])
    recall = np.concatenate([[0.0], true / len(positive)])
    return float(np.diff(recall) @ (precision[1:] + precision[:-1]) / 2)


def compare(id_scores: Scores, ood_scores: Scores) -> Comparison:
    """Checks and sorts ID and OOD scores, tensors or arrays of any shape.

    Raises:
        InputError: if there are no ID or no OOD scores, or a score is not finite.
    """
    return Comparison(sort_scores(id_scores, "ID scores"), sort_scores(ood_scores, "OOD scores"))


def ood_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, float]:
    """Computes AUROC, both FPR95 and both AUPR as fractions.

    >>> ood_metrics([0.9] * 95 + [0.1] * 5, [0.5] * 90 + [0.95] * 10)["fpr95_ood_positive"]
    1.0
    """
    return compare(id_scores, ood_scores).values()


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Computes the area under the ROC curve as a fraction; ties count half."""
    return compare(id_scores, ood_scores).auroc


def fpr95(id_scores: Scores, ood_scores: Scores) -> float:
    """Computes the share of OOD scored at or above the threshold that keeps 95 % of ID (ID positive)."""
    return compare(id_scores, ood_scores).fpr95


def fpr95_ood_positive(id_scores: Scores, ood_scores: Scores) -> float:
    """Computes the share of ID scored at or below the threshold that detects 95 % of OOD (OpenOOD v1.5)."""
    return compare(id_scores, ood_scores).fpr95_ood_positive
