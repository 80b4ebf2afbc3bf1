"""ReAct: OOD Detection With Rectified Activations. Sun, Guo, Li. NeurIPS 2021. https://arxiv.org/abs/2111.12797."""

from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.doubts import Seen, clip_doubts
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_number, check_percentile
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import share
from lightning_ood.statistics.quantile import QuantileSketch, quantile


class ReAct(Shaping):
    """Clips the penultimate feature from above before the classifier: ``logits = W min(z, c) + b`` (eq. 1).

    One threshold c for all units, in units of the feature: given, or the p-th percentile of all entries of the training
    features. Signed features are clipped from above only.

    With a threshold it fits nothing; with a percentile it fits on all training images, without labels. State: a
    histogram of 8 MiB, whose error is below 0.05 % of c; fitted: ``threshold``.

    Deviation: the authors compute the percentile over about 2000 images of the evaluation set and evaluate with fixed
    constants (1.0 for ResNet-50 and CIFAR, 1.3 for MobileNetV2). Here it is computed over the training set.

    Args:
        base: the score of the clipped logits; Energy where None.
        threshold: c; if given, the percentile is not used.
        percentile: p.
    """

    def __init__(
        self, base: LogitScore | None = None, threshold: float | None = None, percentile: float = 90.0
    ) -> None:
        super().__init__(base)
        check_number("threshold", threshold)
        check_percentile("percentile", percentile)
        self.threshold, self.percentile = threshold, percentile

    @property
    def requires_fit(self) -> bool:
        """Whether the threshold is a percentile, which has to be computed."""
        return self.threshold is None

    def setup(self, info: NetworkInfo) -> None:
        """Declares the histogram if the threshold is a percentile."""
        super().setup(info)
        if self.requires_fit:
            self.entries = share(info, QuantileSketch)

    def update(self, features: Features) -> None:
        """Counts all entries of the penultimate features."""
        if self.requires_fit:
            self.entries.update(features.pooled)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``threshold``, a scalar, if it is a percentile."""
        if not self.requires_fit:
            return {}
        counts = self.entries.compute()
        self._require_images(counts)
        return {"threshold": quantile(counts, self.percentile / 100)}

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` of the clipped feature."""
        assert features.head is not None
        threshold = fitted["threshold"] if self.requires_fit else self.threshold
        return features.head(features.pooled.clamp(max=threshold))

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the threshold and, if it was computed, its percentile."""
        if self.threshold is not None:
            return {"threshold": self.threshold}
        return {"threshold": float(fitted["threshold"]), "percentile": self.percentile}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a given threshold that clips nothing, or more than half of the entries."""
        given = [] if self.threshold is None else clip_doubts(self.threshold, seen)
        return [*super().doubts(fitted, seen), *given]
