"""What detectors share that centre the penultimate feature on its mean over the training images."""

from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.moments import Mean


class Centred(Detector):
    """What needs the mean of the penultimate feature over the training images."""

    mean: Mean

    def setup(self, info: NetworkInfo) -> None:
        """Declares the mean."""
        super().setup(info)
        self.mean = info.sketch("mean", Mean, info.num_features)

    def update(self, features: Features) -> None:
        """Adds a batch to the mean."""
        self.mean.add(features)

    def mean_feature(self) -> Tensor:
        """``[D]`` float64, over all processes."""
        sums, images = self.mean.compute()
        self._require_images(images)
        return sums / images
