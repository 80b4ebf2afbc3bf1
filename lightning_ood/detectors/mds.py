"""A Simple Unified Framework for Detecting OOD Samples. Lee et al., NeurIPS 2018. https://arxiv.org/abs/1807.03888."""

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.doubts import Seen, class_doubts, rank_doubts
from lightning_ood.detectors.normalization import check_power, normalized, normalized_products
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments, Shrinkage, check_shrinkage, shrunk, whitening


class MDS(Detector):
    """Negative squared Mahalanobis distance of the penultimate feature to the nearest class mean (eq. 2).

    ``-min_c (z - mu_c)^T S^+ (z - mu_c)``, with the mean ``mu_c`` of each labelled class and one covariance S within
    classes. Never positive; about -D on average over the training images.

    Fits on all training images and their labels. State: K + K * D + D**2 float64.

    Deviations: uses the penultimate feature alone, without input perturbation and without the layer ensemble that is
    weighted on OOD data (as OpenOOD's ``mds``). S^+ is the pseudo-inverse, which ignores units that are dead on the
    training images. Classes without training images have no mean and are left out.

    With ``power=1`` it is Mahalanobis++ (Mueller, Hein, ICML 2025, https://arxiv.org/abs/2505.18032): z is divided by
    its length, in the fit and in the score. With another power p it is the distance of ``z / |z|^p``; a zero feature
    stays zero.

    Args:
        power: exponent of the length that the feature is divided by; 0 leaves it as it is.
        shrinkage: share of the identity in the covariance, in (0, 1], or ``oas``, which computes it from the data; None
            shrinks nothing, as in the paper. Needed with fewer images than classes and units together, where the
            covariance has no full rank and directions without training images count nothing.

    Raises:
        InputError: if ``power`` is negative or not finite, or ``shrinkage`` is outside (0, 1].
    """

    positive = False
    labels = True
    reads_logits = False

    moments: Shared[Moments]

    def __init__(self, power: float = 0.0, shrinkage: Shrinkage = None) -> None:
        super().__init__()
        check_power(power)
        check_shrinkage(shrinkage)
        self.power = power
        self.shrinkage: Shrinkage = shrinkage

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.moments = share(info, Moments, info.num_classes, info.num_features, self.power)

    def update(self, features: Features) -> None:
        """Adds a batch to the class sums and second moments."""
        rows, products = normalized(features, self.power), normalized_products(features, self.power)
        self.moments.update(rows, labels_of(features), products)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``center`` [D], ``whitening`` [D, D] and whitened, centred ``means`` [classes seen, D]; float64."""
        return self.fit(*self.moments.statistic.statistics())

    def fit(self, share: Tensor, means: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Computes the fit from shares ``[K]`` and means ``[K, D]`` of classes and the mean of ``z z^T`` ``[D, D]``."""
        self._require_images(share)
        center = share @ means  # [K] @ [K, D] -> [D]

        def within() -> Tensor:
            covariance = second - means.T @ (share[:, None] * means)
            return whitening(shrunk(covariance, self.shrinkage, self._images(), (share > 0).sum()), second)

        factor = self.moments.once(("within", self.shrinkage), within)
        return {"center": center, "whitening": factor, "means": (means[share > 0] - center) @ factor}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        return -self.distance(features, fitted).float()

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a covariance of deficient rank, and classes without images."""
        if seen.labelled is None:
            return super().doubts(fitted, seen)
        classes = int((seen.labelled > 0).sum())
        rank = self._rank_doubts(seen, classes, "the covariance within classes")
        what = "have no training image: their images are compared with other classes' means"
        return [*super().doubts(fitted, seen), *rank, *class_doubts(seen.labelled, what)]

    def _rank_doubts(self, seen: Seen, means: int, what: str) -> list[str]:
        advice = "fit on more images, or write shrinkage: oas"
        return rank_doubts(seen.images, means, seen.width, what, advice) if self.shrinkage is None else []

    def _images(self) -> Tensor:
        """Returns the number of images in the moments, a float64 scalar."""
        count: Tensor = self.moments.compute()["count"]
        return count.sum()

    def distance(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the squared distance ``[B]`` to the nearest class mean, float64.

        Expands it to ``|a|^2 - 2 a b + |b|^2`` of whitened vectors, which needs no tensor [B, K, D]. Both vectors are
        centred on the global mean, so the terms that cancel are no larger than the distances.
        """
        means = fitted["means"]

        def distance() -> Tensor:
            white = (normalized(features, self.power).double() - fitted["center"]) @ fitted["whitening"]  # [B, D]
            cross = means.square().sum(1) - 2 * white @ means.T  # [B, classes]
            return (white.square().sum(1) + cross.amin(1)).clamp(min=0)

        return features.cached("distance", fitted["whitening"], distance)
