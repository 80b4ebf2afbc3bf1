"""GEN: Pushing the Limits of Softmax-Based OOD Detection. Liu, Lochman, Zach. CVPR 2023.

https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html
"""

from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.errors import InputError


class GEN(LogitScore):
    """Negative generalised entropy of the largest probabilities: ``-sum_{k <= top} p_k^gamma (1 - p_k)^gamma``.

    Between ``-min(top, K) * 4^-gamma`` and 0 (eq. 3). Fits nothing. The defaults are the authors' for ImageNet; a
    ``top`` above K means K.

    Deviations: probabilities are float64 (authors: float32), so that a probability close to 1 keeps its distance to 1.
    With ``gamma = 0.1`` a distance of 1e-8 still contributes 0.16; in float32 it is 0.

    Args:
        gamma: exponent, in (0, 1] for an entropy.
        top: M, the number of largest probabilities in the sum.

    Raises:
        InputError: if ``gamma`` or ``top`` is not positive.
    """

    positive = False

    def __init__(self, gamma: float = 0.1, top: int = 100) -> None:
        super().__init__()
        if not 0 < gamma < float("inf") or not top >= 1:
            raise InputError(f"gamma={gamma} and top={top} have to be positive; the authors use 0.1 and 100")
        self.gamma, self.top = gamma, top

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``, at most 0."""
        log_probs = logits.double().log_softmax(1).topk(min(self.top, logits.shape[1]), dim=1).values  # [B, M]
        return -(log_probs.exp() * -log_probs.expm1()).pow(self.gamma).sum(1).float()
