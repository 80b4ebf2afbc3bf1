"""A base for detectors that compare the penultimate feature with its mean over the training images."""

from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Mean


class Centred(Detector):
    """Base class of detectors that need the mean penultimate feature of the training images."""

    mean: Shared[Mean]

    def setup(self, info: NetworkInfo) -> None:
        """Declares the mean."""
        super().setup(info)
        self.mean = share(info, Mean, info.num_features)

    def update(self, features: Features) -> None:
        """Adds a batch to the mean."""
        self.mean.update(features.pooled)

    def mean_feature(self) -> Tensor:
        """Computes the mean feature ``[D]`` over all processes, float64."""
        sums, images = self.mean.compute()
        self._require_images(images)
        return sums / images
