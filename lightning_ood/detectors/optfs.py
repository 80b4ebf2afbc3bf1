"""Towards Optimal Feature-Shaping Methods for OOD Detection. Zhao et al., ICLR 2024. https://arxiv.org/abs/2402.00865."""

from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.quantile import QuantileSketch, WeightedSketch, occupied, quantile

_NORM = 1000.0  # of theta, as in the authors' code


class OptFS(Shaping):
    """Multiplies each unit by a factor that depends on its value: ``z_i * theta(z_i)``, theta a step function (eq. 9).

    The range of the training features, from quantile 0.001 to 0.999 of all entries, is cut into ``bins`` intervals.
    On an interval theta is proportional to what its entries add to the logit of the predicted class y on the training
    images, ``mean over images of sum_{i: z_i in the interval} W[y, i] z_i``; the length of theta over the intervals is
    1000. Units outside the range become 0. The score is V, the logit of y without its bias, ``<W_y, z * theta(z)>``, or
    that of a base for the new logits (E with Energy).

    Fits on all training images, without labels. State: two histograms of 8 MiB; fitted: ``theta`` [bins] and
    ``range`` [2].

    Deviations: quantiles to 0.05 % of their value, and contributions are sorted into the intervals by bins of that
    width, since the range is available only after the pass. Always ``bins`` intervals, where ``numpy.arange`` of the
    authors' code may give one more. Their dynamic weights are left out.

    Args:
        vanilla: whether the score is V; else that of ``base``.
        bins: number of intervals.
        base: the score of the new logits if ``vanilla`` is false; Energy where None.

    Raises:
        InputError: if there is less than one interval.
    """

    entries: Shared[QuantileSketch]
    contributions: Shared[WeightedSketch]
    images: Tensor

    def __init__(self, vanilla: bool = True, bins: int = 100, base: LogitScore | None = None) -> None:
        super().__init__(base)
        if bins < 1:
            raise InputError(f"bins={bins} leaves OptFS no interval; the authors use 100")
        self.vanilla, self.bins = vanilla, bins
        self.positive = vanilla or self.base.positive

    def setup(self, info: NetworkInfo) -> None:
        """Declares the histograms."""
        super().setup(info)
        self.entries = share(info, QuantileSketch)
        self.contributions = share(info, WeightedSketch)
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Counts all entries of the features and adds their contributions to the logit of the predicted class."""
        assert features.head is not None
        z = features.pooled
        weight = features.head.weight[features.prediction]  # [B, D]
        self.entries.update(z)
        self.contributions.update(z, features.cached("contributions", z, lambda: weight * z))
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``theta`` [bins] and the ends of the ``range`` [2], float32."""
        self._require_images(self.images)
        counts = self.entries.compute()
        ends = quantile(counts, torch.tensor([0.001, 0.999], device=counts.device))
        centers, sums = occupied(self.contributions.compute())  # [filled bins of the sketch] each
        total = sums.new_zeros(self.bins + 2).index_add(0, _interval(centers, ends, self.bins), sums)[1:-1]
        theta = total / total.norm().clamp(min=1e-300) * _NORM
        return {"theta": theta.float(), "range": ends.float()}

    def shape(self, pooled: Tensor, fitted: Fitted) -> Tensor:
        """Multiplies features ``[B, D]`` by their factors."""
        outside = fitted["theta"].new_zeros(1)
        theta = torch.cat([outside, fitted["theta"], outside])
        return pooled * theta[_interval(pooled, fitted["range"], self.bins)]

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` of the shaped feature."""
        assert features.head is not None
        return features.head(self.shape(features.pooled, fitted))

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        if not self.vanilla:
            return super().score(features, fitted)
        assert features.head is not None
        return (features.head.weight[features.prediction] * self.shape(features.pooled, fitted)).sum(1)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the logarithm ``[B]`` of V, at least 1e-6, or that of the base."""
        if not self.vanilla:
            return super().log_score(features, fitted)
        return self.score(features, fitted).clamp(min=1e-6).log()

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """Returns the ends of the range."""
        low, high = fitted["range"].tolist()
        return {"low": low, "high": high}


def _interval(values: Tensor, ends: Tensor, bins: int) -> Tensor:
    """Returns the interval of each value: 1 to ``bins``; 0 below the range, ``bins + 1`` above it."""
    width = ((ends[1] - ends[0]) / bins).clamp(min=1e-30)
    return ((values - ends[0]) / width).floor().clamp(-1, bins).long() + 1
