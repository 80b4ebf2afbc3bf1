"""Nearest Neighbor Guidance for OOD Detection. Park, Jung, Teoh. ICCV 2023. https://arxiv.org/abs/2309.14888."""

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.knn import check_k, draw_bank
from lightning_ood.detectors.needs import index_of
from lightning_ood.features import Features, Setup
from lightning_ood.sketches import Sample


class NNGuide(Detector):
    """Energy, guided by the training features nearby: ``logsumexp(f) * mean of the k largest <z/|z|, g_i>`` (eq. 5).

    A bank row is ``g_i = z_i/|z_i| * logsumexp(f_i)``. Positive for a confident network; where a logsumexp is
    negative its sign enters as the formula says, and the method loses its meaning.

    Fits on a uniform sample of ``bank_size`` training images, all of them where there are fewer. State and cost:
    those of KNN. The authors take k = 10 and all training images; OpenOOD k = 100 and the first 1 % of the loader.

    Deviations: no ReAct in front, which the authors add on ResNet-50.

    Args:
        k: neighbours in the mean.
        bank_size: training features kept at most.
        seed: draws another sample.

    Raises:
        InputError: if the bank holds fewer than ``k`` features.
    """

    bank: Sample

    def __init__(self, k: int = 10, bank_size: int = 50_000, seed: int = 0) -> None:
        super().__init__()
        self.k, self.bank_size, self.seed = k, bank_size, seed

    def setup(self, setup: Setup) -> None:
        """Declares the bank."""
        super().setup(setup)
        self.bank = draw_bank(setup, self.bank_size, self.seed)

    def update(self, features: Features) -> None:
        """Offers the directions of a batch, scaled by their energies, to the bank."""
        self.bank.update(features.direction * features.logits.logsumexp(1, keepdim=True), index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """``bank`` [N, D], rows ``g_i``."""
        bank = self.bank.compute().reshape(-1, self.bank.rows.shape[1])
        check_k(self.k, len(bank))
        return {"bank": bank}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]``, any sign."""
        query = features.direction
        bank = fitted["bank"].reshape(-1, query.shape[1])
        check_k(self.k, len(bank))
        guidance = (query @ bank.T).topk(self.k, dim=1, sorted=False).values.mean(1)
        return guidance * features.logits.logsumexp(1)
