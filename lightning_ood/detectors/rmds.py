"""A Simple Fix to Mahalanobis Distance for Near-OOD. Ren et al., 2021. https://arxiv.org/abs/2106.09022."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.doubts import Seen
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.normalization import normalized
from lightning_ood.features import Features
from lightning_ood.statistics.moments import shrunk, whitening


class RMDS(MDS):
    """Negative relative Mahalanobis distance: to the nearest class, minus that to one Gaussian of all images (eq. 3).

    ``-min_c [d_c(z) - d_0(z)]``: d_c as in :class:`MDS`, d_0 the squared distance to the global mean under the global
    covariance. Any sign.

    Fits on all training images and their labels. State: that of MDS. Deviations: those of MDS.

    Args:
        power: exponent of the length that the feature is divided by; 1 is RMDS++, 0 leaves the feature as it is.
        shrinkage: of both covariances; see :class:`MDS`.
    """

    positive = True  # the score is positive for clearly ID images

    def fit(self, share: Tensor, means: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Computes the fit of MDS and ``background`` [D, D], the whitening of the global covariance."""
        fitted = super().fit(share, means, second)
        center = fitted["center"]
        covariance = shrunk(second - torch.outer(center, center), self.shrinkage, self._images(), 1)
        return {**fitted, "background": whitening(covariance, second)}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        white = (normalized(features, self.power).double() - fitted["center"]) @ fitted["background"]
        return (white.square().sum(1) - self.distance(features, fitted)).float()

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts those of MDS, and a global covariance of deficient rank."""
        return [*super().doubts(fitted, seen), *self._rank_doubts(seen, 1, "the covariance of all images")]
