"""Energy-based Out-of-distribution Detection. Liu, Wang, Owens, Li. NeurIPS 2020. https://arxiv.org/abs/2010.03759."""

from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_positive


class Energy(LogitScore):
    """Negative free energy of the logits: ``T * logsumexp(logits / T)`` (eq. 4, without its minus sign).

    Fits nothing. Any real value, between the largest logit and the largest logit + T log K. Deviations: none.

    Args:
        temperature: T, in units of the logits.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``."""
        return self.temperature * (logits / self.temperature).logsumexp(dim=1)
