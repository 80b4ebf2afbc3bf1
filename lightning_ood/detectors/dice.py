"""DICE: Leveraging Sparsification for OOD Detection. Sun, Li. ECCV 2022. https://arxiv.org/abs/2111.09805."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Fitted, LogitScore
from lightning_ood.detectors.percentile import percentile
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features, Setup


class DICE(Shaping):
    """Keeps the weights that contribute most on average, the same ones for every image.

    Contribution ``V[k, i] = W[k, i] * mean_i`` with the mean of the penultimate feature over the training images;
    the weights with ``V`` above the p-th percentile of all K*D entries stay, the others are zero, the bias stays.

    Fits on all training images, without labels. State: D + 1 numbers; fitted: the masked weight ``[K, D]``.

    Deviation: the paper speaks of contributions without saying how the sign counts; as in the authors' code it does.

    Args:
        percentile: p, the percentage of weights that are dropped (CIFAR 90, ImageNet 70 in the paper).
        base: the score of the new logits; Energy where None.
    """

    sums: Tensor
    images: Tensor

    def __init__(self, percentile: float = 90.0, base: LogitScore | None = None) -> None:
        super().__init__(base)
        self.percentile = percentile

    def setup(self, setup: Setup) -> None:
        """Declares the sum of the features and the number of images."""
        super().setup(setup)
        self.add_state("sums", torch.zeros(setup.width, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Sums the penultimate features."""
        self.sums = self.sums + features.pooled.double().sum(dim=0)
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """``weight`` ``[K, D]``, zero where it is dropped, and ``threshold`` of the contributions."""
        self._require_images(self.images)
        assert self.head is not None
        weight = self.head.weight.to(self.sums.device)
        contribution = weight * (self.sums / self.images)
        threshold = percentile(contribution, self.percentile)
        return {"weight": weight * (contribution > threshold), "threshold": threshold}

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Logits of the sparse classifier, ``[B, K]``."""
        assert features.head is not None
        weight = fitted["weight"].reshape_as(features.head.weight)
        return F.linear(features.pooled, weight, features.head.bias)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """The threshold of the contributions and the share of weights that stay (exact zeros count as dropped)."""
        return {"threshold": float(fitted["threshold"]), "kept": float((fitted["weight"] != 0).double().mean())}
