"""Scaling for Training Time and Post-hoc OOD Detection. Xu et al., ICLR 2024. https://arxiv.org/abs/2310.00227."""

from torch import Tensor

from lightning_ood.detectors.ash import check_percentile, largest, scale
from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features


class SCALE(Shaping):
    """Scales an image's feature by ``exp(s1 / s2)`` without pruning it, then scores the new logits (eq. 7).

    s1 is the sum of all units, s2 the sum of the units above the image's own percentile. The predicted class can change
    only through the bias.

    Fits nothing. The default percentile is the authors' for ImageNet.

    Deviations: those of :class:`~lightning_ood.detectors.ash.ASH` for signed and zero features.

    Args:
        percentile: percentage of the units that s2 leaves out.
        base: the score of the scaled logits; Energy where None.

    Raises:
        InputError: if ``percentile`` is not in [0, 100).
    """

    def __init__(self, percentile: float = 85.0, base: LogitScore | None = None) -> None:
        super().__init__(base)
        check_percentile(percentile)
        self.percentile = percentile

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the shaped logits ``[B, K]``."""
        assert features.head is not None
        return features.head(self.shape(features.pooled))

    def shape(self, pooled: Tensor) -> Tensor:
        """Scales features ``[B, D]``."""
        kept, _ = largest(pooled, self.percentile)
        return pooled * scale(pooled, kept)
