"""AUROC, FPR95 and AUPR of in-distribution (ID) against out-of-distribution (OOD) scores, exact, ties included.

Higher score = more in-distribution. The raw scores are sorted once per set and everything is counted from there: no
binning and no squashing (a sigmoid, which torchmetrics' curve metrics apply to scores outside [0, 1], saturates in
float32 and destroys energies). Values are fractions; ``metrics.csv`` and the tables are in percent.

Two definitions of FPR95 are in use, and they can differ arbitrarily; both are computed and named:

* ``fpr95``: ID is the positive class. The share of OOD images that are accepted (score >= t) by the largest threshold
  t that keeps at least 95 % of the ID images: t is the k-th largest ID score, k = ceil(0.95 n). Ties are accepted.
* ``fpr95_ood_positive`` (OpenOOD v1.5): OOD is the positive class. The share of ID images that are flagged (score
  <= t) by the smallest t that catches at least 95 % of the OOD images. Read off the full ROC curve; scikit-learn's
  default drops collinear points and can give a larger value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_ood.errors import InputError

METRICS = ("auroc", "fpr95", "fpr95_ood_positive", "aupr_in", "aupr_out")
Scores = Tensor | ArrayLike


def count_95(n: int) -> int:
    """ceil(0.95 n), in integers: 0.95 is not a binary number."""
    return -(-19 * n // 20)


def sort_scores(scores: Scores, what: str = "scores") -> NDArray[np.floating]:
    """Checks scores and sorts them, ascending, in their own precision.

    Raises:
        InputError: if there is no score or one is not finite.
    """
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu()
        scores = scores.numpy() if scores.dtype in (torch.float32, torch.float64) else scores.double().numpy()
    values = np.asarray(scores).ravel()
    if values.size == 0:
        raise InputError(f"no {what}: both an ID and an OOD set need at least one image")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(f"{bad.size} of {values.size} {what} not finite; the first, {values[bad[0]]}, at {bad[0]}")
    return np.sort(values)


@dataclass(frozen=True, eq=False)
class Comparison:
    """ID against OOD scores, both sorted once. :func:`compare` makes one.

    Attributes:
        id: ``[n]`` ID scores, ascending.
        ood: ``[m]`` OOD scores, ascending.
    """

    id: NDArray[np.floating]
    ood: NDArray[np.floating]

    @cached_property
    def _ood_below_id(self) -> NDArray[np.int64]:
        """``[n]`` number of OOD scores below each ID score."""
        return np.searchsorted(self.ood, self.id, side="left")

    @cached_property
    def _id_upto_ood(self) -> NDArray[np.int64]:
        """``[m]`` number of ID scores at or below each OOD score."""
        return np.searchsorted(self.id, self.ood, side="right")

    @cached_property
    def id_placements(self) -> NDArray[np.float64]:
        """``[n]`` share of the OOD images below each ID image, ties half: their mean is the AUROC."""
        return (self._ood_below_id + np.searchsorted(self.ood, self.id, side="right")) / (2 * len(self.ood))

    @cached_property
    def ood_placements(self) -> NDArray[np.float64]:
        """``[m]`` share of the ID images above each OOD image, ties half: their mean is the AUROC."""
        return 1 - (self._id_upto_ood + np.searchsorted(self.id, self.ood, side="left")) / (2 * len(self.id))

    @property
    def auroc(self) -> float:
        """Probability that an ID image scores higher than an OOD image, ties half."""
        return float(self.id_placements.mean())

    @property
    def fpr95(self) -> float:
        """Share of OOD accepted by the threshold that keeps 95 % of ID."""
        threshold = self.id[len(self.id) - count_95(len(self.id))]
        return (len(self.ood) - int(np.searchsorted(self.ood, threshold, side="left"))) / len(self.ood)

    @property
    def fpr95_ood_positive(self) -> float:
        """Share of ID flagged by the threshold that catches 95 % of OOD."""
        threshold = self.ood[count_95(len(self.ood)) - 1]
        return int(np.searchsorted(self.id, threshold, side="right")) / len(self.id)

    @property
    def aupr_in(self) -> float:
        """Average precision with ID as the positive class."""
        # sum over thresholds of (recall step) x precision = mean over positives of the precision at their own score
        true = len(self.id) - np.searchsorted(self.id, self.id, side="left")
        false = len(self.ood) - self._ood_below_id
        return float(np.mean(true / (true + false)))

    @property
    def aupr_out(self) -> float:
        """Average precision with OOD as the positive class (low scores first)."""
        true = np.searchsorted(self.ood, self.ood, side="right")
        return float(np.mean(true / (true + self._id_upto_ood)))

    def values(self) -> dict[str, float]:
        """All of :data:`METRICS`, fractions."""
        return {name: getattr(self, name) for name in METRICS}


def compare(id_scores: Scores, ood_scores: Scores) -> Comparison:
    """Sorts ID and OOD scores (any shape, tensors or arrays, higher = more ID) for counting.

    Raises:
        InputError: if a side is empty or a score is not finite.
    """
    return Comparison(sort_scores(id_scores, "ID scores"), sort_scores(ood_scores, "OOD scores"))


def ood_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, float]:
    """AUROC, both FPR95 and both AUPR, as fractions.

    >>> ood_metrics([0.9] * 95 + [0.1] * 5, [0.5] * 90 + [0.95] * 10)["fpr95_ood_positive"]
    1.0
    """
    return compare(id_scores, ood_scores).values()


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Area under the ROC curve, a fraction; ties count half."""
    return compare(id_scores, ood_scores).auroc


def fpr95(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of OOD scored at or above the threshold that keeps 95 % of ID (ID positive)."""
    return compare(id_scores, ood_scores).fpr95


def fpr95_ood_positive(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of ID scored at or below the threshold that catches 95 % of OOD (OpenOOD v1.5)."""
    return compare(id_scores, ood_scores).fpr95_ood_positive


class OODMetrics(Metric):
    """The same metrics for scores that arrive in batches and on several processes.

    ``update`` keeps the raw scores; ``compute`` gives all of :data:`METRICS` as fractions (float64).

    >>> metric = OODMetrics()
    >>> metric.update(id_scores=torch.tensor([3.0, 1.0]))
    >>> metric.update(ood_scores=torch.tensor([2.0, 1.0]))
    >>> metric.compute()["auroc"]
    tensor(0.6250, dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False
    id: list[Tensor] | Tensor
    ood: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)  # of the empty list that a process without images sends
        self.add_state("id", [], "cat")
        self.add_state("ood", [], "cat")

    def update(self, id_scores: Tensor | None = None, ood_scores: Tensor | None = None) -> None:
        """Takes scores of ID images, of OOD images, or of both; any floating type, any shape.

        Raises:
            InputError: if a score is not finite.
        """
        for name, scores in (("id", id_scores), ("ood", ood_scores)):
            if scores is None:
                continue
            scores = scores.detach().flatten().double()  # exact for every floating type
            if not scores.isfinite().all():
                at = int((~scores.isfinite()).nonzero()[0])
                raise InputError(f"the {name.upper()} score at position {at} of this batch is {scores[at].item()}")
            getattr(self, name).append(scores)

    def compute(self) -> dict[str, Tensor]:
        """All of :data:`METRICS` over every score seen.

        Raises:
            InputError: if there is no ID or no OOD score.
        """
        held = [dim_zero_cat(state) if len(state) else torch.empty(0) for state in (self.id, self.ood)]
        values = ood_metrics(*held)
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in values.items()}
