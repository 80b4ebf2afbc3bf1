"""DICE: Leveraging Sparsification for OOD Detection. Sun, Li. ECCV 2022. https://arxiv.org/abs/2111.09805."""

import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.centred import Centred
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_percentile
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features
from lightning_ood.ops.quantiles import percentile


class DICE(Centred, Shaping):
    """Keeps the weights that contribute most on average; they are the same for every image.

    The contribution is ``V[k, i] = W[k, i] * mean_i``, with the mean of the penultimate feature over the training
    images. Weights with ``V`` above the p-th percentile of all K*D entries stay, the others become zero. The bias
    stays.

    Fits on all training images, without labels. State: D + 1 numbers; fitted: the masked weight ``[K, D]``.

    Deviation: the paper does not say whether contributions are signed. Here they are, as in the authors' code.

    Args:
        percentile: p, the percentage of weights that are dropped (CIFAR 90, ImageNet 70 in the paper).
        base: the score of the new logits; Energy where None.
    """

    def __init__(self, percentile: float = 90.0, base: LogitScore | None = None) -> None:
        super().__init__(base)
        check_percentile("percentile", percentile)
        self.percentile = percentile

    def compute(self) -> dict[str, Tensor]:
        """Computes ``weight`` ``[K, D]``, zero where dropped, and ``threshold``, the percentile of contributions."""
        mean = self.mean_feature()
        assert self.head is not None  # setup refuses a network without a linear head
        weight = self.head.weight.to(mean.device)
        contribution = weight * mean  # [K, D]
        threshold = percentile(contribution, self.percentile)
        return {"weight": weight * (contribution > threshold), "threshold": threshold}

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` of the sparse classifier."""
        assert features.head is not None
        weight = fitted["weight"]
        return F.linear(features.pooled, weight, features.head.bias)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the threshold and the fraction of weights that are kept (exact zeros count as dropped)."""
        return {"threshold": float(fitted["threshold"]), "kept": float((fitted["weight"] != 0).double().mean())}
