"""Single Layer Predictive Normalized Maximum Likelihood for OOD Detection. Bibas, Feder, Hassner. NeurIPS 2021.

https://arxiv.org/abs/2110.09246
"""

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, spectrum_doubts
from lightning_ood.detectors.normalization import normalized_products
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments, whitening

_SMALLEST = 1e-12  # bounds of a probability: this and 1 minus this


class PNML(Detector):
    """Negative regret of the classifier against a learner that has seen the image with its true label (theorem 2).

    ``-log sum_k p_k / (p_k + (1 - p_k) p_k^g)``: p are the probabilities of the direction ``y = z / |z|``, and
    ``g = x / (1 + x)`` with ``x = y^T (Y^T Y)^+ y``, Y the directions of all N training images. x is small where many
    training images support the direction. Never positive, at least ``-log K``.

    Fits on all training images, without labels. State: D**2 + D + 1 float64; fitted: ``factor`` [D, D], float64, of
    ``(Y^T Y)^+ = F F^T``.

    Deviations: not divided by ``log K``, which changes no ranking. The pseudo-inverse ignores directions without
    training images. The formula is pytorch-ood's, where both x and p are of the direction; a zero feature has x = 0.
    """

    linear_head = True
    positive = False

    moments: Shared[Moments]

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.moments = share(info, Moments, 1, info.num_features, 1.0)

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments of the directions."""
        self.moments.update(features.direction, None, normalized_products(features, 1.0))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``factor`` ``[D, D]``."""
        count = self.moments.compute()["count"].sum()
        self._require_images(count)
        _, _, second = self.moments.statistic.statistics()
        return {"factor": whitening(second, second) / count.sqrt()}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a support of few images."""
        found = spectrum_doubts(seen.images, seen.width, "the support of a direction")
        return [*super().doubts(fitted, seen), *found]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        assert features.head is not None
        x = (features.direction.double() @ fitted["factor"]).square().sum(1, keepdim=True)  # [B, 1]
        p = features.head(features.direction).double().softmax(1).clamp(_SMALLEST, 1 - _SMALLEST)  # [B, K]
        genie = p / (p + (1 - p) * p.pow(x / (1 + x)))
        return -genie.sum(1).clamp(min=1).log().float()
