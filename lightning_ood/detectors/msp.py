"""A Baseline for Detecting Misclassified and OOD Examples. Hendrycks, Gimpel. ICLR 2017. https://arxiv.org/abs/1610.02136."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore


class MSP(LogitScore):
    """Logarithm of the maximum softmax probability: ``log max_k p_k``.

    Fits nothing. In (-inf, 0]. Invariant to a constant added to all logits.

    Deviation: the paper scores ``max p``, which float32 rounds to 1.0 for confident images. The logarithm has the same
    order without these ties. It is computed from the sum over the other classes, so that ``1 - max p`` keeps its
    digits.
    """

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``."""
        top, best = logits.max(dim=1, keepdim=True)  # [B, 1] each
        others = logits.scatter(1, best, -torch.inf)
        return -F.softplus((others - top).logsumexp(dim=1))  # log p = -log(1 + sum of exp(others - top))

    def log_of_logits(self, logits: Tensor) -> Tensor:
        """Returns the score ``[B]``, which is already the logarithm of a probability."""
        return self.of_logits(logits)
