"""Nearest Neighbor Guidance for OOD Detection. Park, Jung, Teoh. ICCV 2023. https://arxiv.org/abs/2309.14888."""

from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.knn import Neighbours, check_k
from lightning_ood.features import Features


class NNGuide(Neighbours):
    """Energy guided by nearby training features: ``logsumexp(f) * mean of the k largest <z/|z|, g_i>`` (eq. 5).

    A row of the bank is ``g_i = z_i/|z_i| * logsumexp(f_i)``. Positive for a confident network. A negative logsumexp
    enters the formula with its sign, and the score then has no useful meaning.

    Fits on a uniform sample of ``bank_size`` training images, or on all if there are fewer. State and cost: those of
    KNN. The authors use k = 10 and a random 1 % of the training images, OpenOOD k = 100 and the first 1 % of the
    loader; ``bank_size`` sets the share.

    Deviations: no preceding ReAct, which the authors add on ResNet-50. A training image with a zero feature, whose row
    would be zero, is left out.

    Args:
        k: number of neighbours in the mean.
        bank_size: largest number of training features.
        seed: seed of the sample.

    Raises:
        InputError: if the bank has fewer than ``k`` features.
    """

    def __init__(self, k: int = 10, bank_size: int = 50_000, seed: int = 0) -> None:
        super().__init__(k, bank_size, seed)

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        bank, energy = fitted["bank"], fitted["energy"]
        check_k(self.k, len(bank))
        guided = features.similarity(bank) * energy  # [B, N]
        guidance = guided.topk(self.k, dim=1, sorted=False).values.mean(1)
        return guidance * features.logits.logsumexp(1)
