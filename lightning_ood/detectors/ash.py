"""Extremely Simple Activation Shaping. Djurisic, Bozanic, Ashok, Liu. ICLR 2023. https://arxiv.org/abs/2209.09858."""

from typing import Literal

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Features

_LARGEST_RATIO = 60.0  # exp(60) = 1e26 times any feature and weight stays within float32


def check_percentile(percentile: float) -> None:
    """Checks that a percentile keeps at least one unit.

    Raises:
        InputError: if it is not in [0, 100).
    """
    if not 0 <= percentile < 100:
        raise InputError(
            f"percentile={percentile} is not in [0, 100); write for example 90, which keeps the largest tenth"
        )


def largest(pooled: Tensor, percentile: float) -> tuple[Tensor, int]:
    """Selects each image's units above its own percentile.

    Args:
        pooled: ``[B, D]``.
        percentile: in [0, 100).

    Returns:
        mask ``[B, D]`` of the k largest units, and ``k = D - round(D * percentile / 100)``, at least 1 (``round``
        half to even, as numpy's in the authors' code).
    """
    width = pooled.shape[1]
    k = max(width - round(width * percentile / 100), 1)
    mask = torch.zeros_like(pooled, dtype=torch.bool)
    return mask.scatter(1, pooled.topk(k, dim=1, sorted=False).indices, True), k


def ratio(pooled: Tensor, kept: Tensor) -> Tensor:
    """Computes ``s1 / s2`` ``[B, 1]``, s1 the sum of all units and s2 that of the kept ones; 0 where s2 is 0.

    Only positive units enter the sums. For rectified features that changes nothing; for signed ones the ratio stays in
    [1, D / k], while plain sums could cancel.

    Args:
        pooled: ``[B, D]``.
        kept: mask ``[B, D]`` of the kept units.
    """
    positive = pooled.clamp(min=0)
    s1, s2 = positive.sum(1, keepdim=True), (positive * kept).sum(1, keepdim=True)  # [B, 1] each
    return torch.where(s2 > 0, s1 / torch.where(s2 > 0, s2, 1), 0)


def scale(pooled: Tensor, kept: Tensor) -> Tensor:
    """Computes the factor ``exp(s1 / s2)`` ``[B, 1]`` of ASH-S and SCALE from :func:`ratio`.

    The factor is 1 for an image without a positive unit.
    """
    return ratio(pooled, kept).clamp(max=_LARGEST_RATIO).exp()


class ASH(Shaping):
    """Prunes an image's small activations, then scores the new logits (section 3.1).

    The k largest of the D units are kept and the others set to 0. The variant decides on the kept units:

    - ``p``: they stay as they are;
    - ``b``: all are set to ``s1 / k``, which preserves the sum s1 of the feature;
    - ``s``: they are multiplied by ``exp(s1 / s2)``, s2 being the sum of the kept units.

    Fits nothing. The authors' configurations: S at 95 for CIFAR DenseNet, 90 for ImageNet ResNet-50 and
    MobileNetV2. OpenOOD's ASH is B.

    Deviations: on signed features s1 and s2 sum positive units only, and the exponent is at most 60 (reached only
    above the 98th percentile). A zero feature stays zero. Features are never changed in place.

    Args:
        variant: ``p``, ``b`` or ``s``.
        percentile: percentage of the units that are pruned.
        base: the score of the shaped logits; Energy where None.

    Raises:
        InputError: if ``percentile`` is not in [0, 100).
    """

    def __init__(
        self, variant: Literal["p", "b", "s"] = "s", percentile: float = 90.0, base: LogitScore | None = None
    ) -> None:
        super().__init__(base)
        if variant not in ("p", "b", "s"):
            raise InputError(f"variant={variant!r} is not a variant of ASH: write p, b or s")
        check_percentile(percentile)
        self.variant, self.percentile = variant, percentile

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the shaped logits ``[B, K]``."""
        assert features.head is not None
        return features.head(self.shape(features.pooled))

    def shape(self, pooled: Tensor) -> Tensor:
        """Shapes features ``[B, D]``."""
        kept, k = largest(pooled, self.percentile)  # kept: [B, D]
        if self.variant == "b":
            return kept * (pooled.clamp(min=0).sum(1, keepdim=True) / k)
        pruned = torch.where(kept, pooled, 0)
        return pruned if self.variant == "p" else pruned * scale(pooled, kept)
