"""Detecting OOD through the Lens of Neural Collapse. Liu, Qin. CVPR 2025. https://arxiv.org/abs/2311.01479."""

import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.centred import Centred
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.features import Features


class NCI(Centred):
    """Proximity of the centred feature to the predicted class's weights, plus the norm of the feature.

    ``<w_y, z - mean> / ||z - mean||_2 + alpha * ||z||_1``, y the predicted class; any sign. In a collapsed network,
    centred training features point along their class's weights, and OOD features lie nearer to the origin.

    Fits the mean feature of all training images. State: D + 1 float64. Deviations: none from the authors' code
    (OpenOOD's ``nci``), which uses the L1 norm, and alpha = 0.0001 unless it is chosen on validation data from 0.0001,
    0.001, 0.01 and 0.1.

    Args:
        alpha: weight of the norm; 0 leaves it out.
    """

    linear_head = True

    def __init__(self, alpha: float = 1e-4) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        self.alpha = alpha

    def compute(self) -> dict[str, Tensor]:
        """Computes ``mean`` [D]."""
        return {"mean": self.mean_feature().float()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        assert features.head is not None
        direction = F.normalize(features.pooled - fitted["mean"], dim=1)  # [B, D]
        proximity = (direction * features.head.weight[features.prediction]).sum(1)  # [B]
        return proximity + self.alpha * features.pooled.abs().sum(1)
