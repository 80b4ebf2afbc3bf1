"""Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern Hopfield Energy.

Zhang et al., ICLR 2023. https://openreview.net/forum?id=KkazG4lgKL
"""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.doubts import Seen, class_doubts
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo


class SHE(Detector):
    """Inner product of the feature with the template of the predicted class: ``<z, S_y>`` (eq. 8).

    ``S_k`` is the mean feature of the training images of class k that the network classifies correctly. Never negative
    for rectified features.

    Fits on the correctly classified training images. State: K * D + K float64. Deviation: a class without a correctly
    classified image has no template and is left out (the authors' code gives NaN). The predicted class is then the one
    with the largest logit among the others.

    Raises:
        InputError: if no training image is classified correctly.
    """

    labels = True

    sums: Tensor
    count: Tensor

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.add_state("sums", torch.zeros(info.num_classes, info.num_features, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(info.num_classes, dtype=torch.float64), "sum")

    def update(self, features: Features) -> None:
        """Adds the correctly classified images of a batch."""
        labels = labels_of(features)
        correct = (features.prediction == labels).double()
        self.sums = self.sums.index_add(0, labels, features.pooled * correct[:, None])
        self.count = self.count.index_add(0, labels, correct)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``templates`` [K, D] and ``present`` [K], whether a class has a template."""
        if not self.count.any():
            raise InputError(
                "SHE averages over correctly classified training images, and there is none; check the labels and the "
                "weights of the network"
            )
        return {"templates": (self.sums / self.count.clamp(min=1)[:, None]).float(), "present": self.count > 0}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        prediction = features.logits.where(fitted["present"], -torch.inf).argmax(1)
        templates = fitted["templates"]
        return (features.pooled * templates[prediction]).sum(1)

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts classes without a template."""
        what = "have no template (no correctly classified training image): their images are scored with another class"
        return [*super().doubts(fitted, seen), *class_doubts(fitted["present"], what)]
