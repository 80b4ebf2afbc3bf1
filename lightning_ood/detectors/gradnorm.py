"""On the Importance of Gradients for Detecting Distributional Shifts. Huang, Geng, Li. NeurIPS 2021.

https://arxiv.org/abs/2110.00218
"""

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.ranges import check_positive
from lightning_ood.features import Features


class GradNorm(Detector):
    """L1 norm of d KL(uniform || softmax(f / T)) / dW, W the weight of the last layer without its bias (eq. 4).

    The closed form ``||z||_1 * sum_k |p_k - 1/K| / T`` (section 5) needs no backward pass. Never negative; 0 where the
    softmax is uniform. Fits nothing.

    Deviations: none. OpenOOD omits the 1/K of the mean over classes, so its scores are K times larger, in the same
    order.

    Args:
        temperature: T, in units of the logits.
    """

    linear_head = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at least 0."""
        probs = (features.logits / self.temperature).softmax(1)
        spread = (probs - 1 / probs.shape[1]).abs().sum(1)  # [B]
        return features.pooled.abs().sum(1) * spread / self.temperature
