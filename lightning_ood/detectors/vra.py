"""VRA: Variational Rectified Activation for OOD Detection. Xu et al., NeurIPS 2023. https://arxiv.org/abs/2302.11716."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_at_least, check_number
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.quantiles import percentile_of_sorted
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.sample import Sample


class VRA(Shaping):
    """Suppresses abnormally low and high activations, then scores the new logits.

    For each unit: 0 where ``z < low``, ``high`` where ``z > high``, ``z + shift`` in between. ``shift = 0`` is VRA;
    ``shift > 0`` amplifies the values in between and is the paper's VRA+.

    Fits percentiles per unit on all training images, from a uniform sample of ``rows`` images. Fits nothing if both
    thresholds are given. State: ``rows * (D + 1)`` numbers (33 MB at D = 2048).

    Follows the authors' code (zeroQiaoba/VRA): per-unit quantiles 0.6 and 0.9 for CIFAR-10 (0.95 for CIFAR-100 and
    VRA+), low = 0.5 and high = 1 for ImageNet ResNet-50, shift = 0.6 (CIFAR) or 0.3 (ImageNet, thresholds 0.6 and
    0.7) for VRA+. Deviations: quantiles are of a sample, not of all training images. VRA++ (which adds a quadratic term
    of the feature to the score) is left out. OpenOOD's VRA raises low units to ``low`` instead of setting them to zero.

    Args:
        low_percentile: percentile of a unit's training values below which it is zeroed.
        high_percentile: percentile above which it is clipped.
        low: one lower threshold for all units, in place of the percentile.
        high: one upper threshold for all units, in place of the percentile.
        shift: gamma of VRA+, in units of the feature.
        rows: number of images in the sample for the percentiles.
        seed: seed of the sample.
        base: the score of the shaped logits; Energy where None.

    Raises:
        InputError: if the lower threshold or percentile is above the upper one.
    """

    sample: Shared[Sample]

    def __init__(
        self,
        low_percentile: float = 60.0,
        high_percentile: float = 90.0,
        low: float | None = None,
        high: float | None = None,
        shift: float = 0.0,
        rows: int = 4096,
        seed: int = 0,
        base: LogitScore | None = None,
    ) -> None:
        super().__init__(base)
        if not 0 <= low_percentile <= high_percentile <= 100:
            raise InputError(
                f"low_percentile={low_percentile} and high_percentile={high_percentile} are not in order; "
                "write 0 <= low_percentile <= high_percentile <= 100"
            )
        if low is not None and high is not None and low > high:
            raise InputError(f"low={low} is above high={high}; write a low of at most {high}")
        for name, value in (("low", low), ("high", high), ("shift", shift)):
            check_number(name, value)
        check_at_least("rows", rows, 1)
        self.low_percentile, self.high_percentile = low_percentile, high_percentile
        self.low, self.high, self.shift = low, high, shift
        self.rows, self.seed = rows, seed

    @property
    def requires_fit(self) -> bool:
        """Whether a threshold is a percentile, which has to be computed."""
        return self.low is None or self.high is None

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sample."""
        super().setup(info)
        self.sample = share(info, Sample, self.rows, info.num_features, self.seed)

    def update(self, features: Features) -> None:
        """Considers a batch for the sample."""
        if self.requires_fit:
            self.sample.update(features.pooled, index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``low`` and ``high`` [D], each only if it is a percentile."""
        if not self.requires_fit:
            return {}
        # [n, D], each column sorted; sorting contiguous memory is faster.
        rows = self.sample.statistic.draw().T.contiguous().sort(dim=1).values.T
        self._require_images(torch.tensor(len(rows)))
        fitted = {}
        if self.low is None:
            fitted["low"] = percentile_of_sorted(rows, self.low_percentile)
        if self.high is None:
            fitted["high"] = percentile_of_sorted(rows, self.high_percentile)
        return fitted

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the shaped logits ``[B, K]``."""
        assert features.head is not None
        return features.head(self.shape(features.pooled, fitted))

    def shape(self, pooled: Tensor, fitted: Fitted) -> Tensor:
        """Shapes features ``[B, D]``."""
        low = self.low if self.low is not None else fitted["low"]
        high = self.high if self.high is not None else fitted["high"]
        return torch.where(pooled > high, high, torch.where(pooled < low, 0, pooled + self.shift))
