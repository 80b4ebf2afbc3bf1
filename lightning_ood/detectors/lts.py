"""LTS: Logit Scaling for OOD Detection. Djurisic, Liu, Nikolic. 2024. https://arxiv.org/abs/2409.01175."""

from torch import Tensor

from lightning_ood.detectors.ash import check_percentile, largest, ratio
from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features


class LTS(Shaping):
    """Scales an image's logits by ``(s1 / s2)^2``, then scores them (algorithm 1).

    s1 is the sum of the rectified units of the penultimate feature, s2 that of the units above the image's own
    percentile. The predicted class does not change. Needs no weights: the classifier may be of any kind.

    Fits nothing. Default percentile: that of the authors' code.

    Deviation: an image without a positive unit keeps its logits (the authors' code gives NaN).

    Args:
        percentile: share of the units that s2 leaves out, in percent.
        base: the score of the scaled logits; Energy where None.

    Raises:
        InputError: if ``percentile`` is not in [0, 100).
    """

    linear_head = False

    def __init__(self, percentile: float = 65.0, base: LogitScore | None = None) -> None:
        super().__init__(base)
        check_percentile(percentile)
        self.percentile = percentile

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the scaled logits ``[B, K]``."""
        kept, _ = largest(features.pooled, self.percentile)
        return features.logits * ratio(features.pooled, kept).clamp(min=1).square()  # s2 <= s1
