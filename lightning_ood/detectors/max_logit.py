"""Scaling OOD Detection for Real-World Settings. Hendrycks et al. ICML 2022. https://arxiv.org/abs/1911.11132."""

from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore


class MaxLogit(LogitScore):
    """The largest logit: ``max_k f_k``.

    Fits nothing. Any real value; adding a constant to all logits changes it. Deviations: none.
    """

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``."""
        return logits.amax(dim=1)
