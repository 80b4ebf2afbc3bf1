"""A Simple Unified Framework for Detecting OOD Samples. Lee et al., NeurIPS 2018. https://arxiv.org/abs/1807.03888."""

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments, whitening


class MDS(Detector):
    """Squared Mahalanobis distance of the penultimate feature to the nearest class mean, negative (eq. 2).

    ``-min_c (z - mu_c)^T S^+ (z - mu_c)`` with true-class means ``mu_c`` and one covariance S within classes.
    Never positive; about -D on average over the training images.

    Fits on all training images and their labels. State: K + K * D + D**2 float64.

    Deviations: the penultimate feature alone, without input perturbation and without the layer ensemble weighted on
    OOD data (as in OpenOOD's ``mds``). S^+ is the pseudo-inverse, so units that are dead on the training images are
    not seen. Classes without training images have no mean and take no part.
    """

    positive = False

    moments: Shared[Moments]

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.moments = share(info, Moments, info.num_classes, info.num_features)

    def update(self, features: Features) -> None:
        """Adds a batch to the class sums and second moments."""
        self.moments.update(features.pooled, labels_of(features), features.products)

    def compute(self) -> dict[str, Tensor]:
        """``center`` [D], ``whitening`` [D, D], ``means`` [classes seen, D] centred and whitened; float64."""
        return self.fit(*self.moments.statistic.statistics())

    def fit(self, share: Tensor, means: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Fits to each class's share ``[K]`` and mean ``[K, D]``, and the mean ``[D, D]`` of ``z z^T``."""
        self._require_images(share)
        center = share @ means
        within = lambda: whitening(second - means.T @ (share[:, None] * means), second)  # noqa: E731
        factor = self.moments.once("within", within)
        return {"center": center, "whitening": factor, "means": (means[share > 0] - center) @ factor}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]``, at most 0."""
        return -self.distance(features, fitted).float()

    def distance(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]`` squared distance to the nearest class mean, float64.

        Expanded as ``|a|^2 - 2 a b + |b|^2`` of whitened vectors: no tensor of B x K x D. Both are centred on the
        global mean, so what cancels is no larger than the distances themselves.
        """
        means = fitted["means"]

        def distance() -> Tensor:
            white = (features.pooled.double() - fitted["center"]) @ fitted["whitening"]
            cross = means.square().sum(1) - 2 * white @ means.T
            return (white.square().sum(1) + cross.amin(1)).clamp(min=0)

        return features.cached("distance", fitted["whitening"], distance)
