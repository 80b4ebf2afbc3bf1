"""Fast Decision Boundary based OOD Detector. Liu, Qin. ICML 2024. https://arxiv.org/abs/2312.11536."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.centred import Centred
from lightning_ood.features import Features


class FDBD(Centred):
    """Mean distance to the decision boundaries, relative to the distance to the mean training feature (section 3.2).

    ``mean over c != y of |f_c - f_y| / ||w_c - w_y||``, divided by ``||z - mean||``; y is the predicted class. Never
    negative.

    Fits the mean feature of all training images. State: D + 1 float64; fitted: D + K**2 numbers.

    Deviations: averages over classes, as the paper writes. Both public implementations sum, which gives K - 1 times as
    much; ``mean_over_classes: false`` does so too. Two classes with equal weights have no boundary and add nothing.

    Args:
        mean_over_classes: mean (paper) or sum (authors' code).
    """

    linear_head = True

    def __init__(self, mean_over_classes: bool = True) -> None:
        super().__init__()
        self.mean_over_classes = mean_over_classes

    def compute(self) -> dict[str, Tensor]:
        """Computes ``mean`` [D] and ``inverse_distance`` [K, K] between the classes' weights, 0 on the diagonal."""
        mean = self.mean_feature()
        assert self.head is not None  # setup refuses a network without a linear head
        weight = self.head.weight.to(mean.device)
        distance = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        inverse = torch.where(distance > 0, 1 / distance, 0)
        return {"mean": mean.float(), "inverse_distance": inverse}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at least 0."""
        logits, y = features.logits, features.prediction
        margin = logits.gather(1, y[:, None]) - logits  # [B, K]
        inverse = fitted["inverse_distance"]
        total = (margin * inverse[y]).sum(1)  # [B]
        if self.mean_over_classes:
            total = total / max(logits.shape[1] - 1, 1)
        return total / (features.pooled - fitted["mean"]).norm(dim=1).clamp(min=1e-12)
