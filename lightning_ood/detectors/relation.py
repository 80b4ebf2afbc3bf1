"""Neural Relation Graph. Kim, Yun, Song. NeurIPS 2023. https://arxiv.org/abs/2301.12321."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.ranges import check_at_least, check_positive, check_share
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.sample import Sample


class RelationBank(Sample):
    """A uniform sample of training images: direction of the penultimate feature and softmax of each.

    Args:
        size: largest number of images.
        width: D + K.
        seed: seed of the sample.
    """

    def update(self, features: Features) -> None:  # type: ignore[override]
        """Considers a batch for the sample."""
        super().update(torch.cat([features.direction, features.probs], dim=1), index_of(features))


class Relation(Detector):
    """Mean relation to training images: both features and both predictions have to agree (eq. 2 and 5).

    ``mean over the bank of r^power``, with ``r = relu(cos(z, z_i)) * <p, p_i>``, p the softmax; relations of at most
    ``threshold`` count as 0. Between 0 and 1.

    Fits on a uniform sample of ``bank_size`` training images, or on all if there are fewer, without labels. State:
    ``bank_size * (D + K + 1)`` numbers, 122 MB at 10,000 images, D = 2048 and K = 1000; scoring costs
    ``bank_size * (D + K)`` multiplications per image.

    Deviations: the mean over the bank, not the sum (authors' code and OpenOOD, all training images): with the same
    images the order is the same, and the score does not grow with the bank. A zero feature scores 0.

    Args:
        power: exponent of a relation; the benchmark chooses from 1, 2, 4, 6 and 8.
        threshold: relations up to it are left out.
        bank_size: largest number of training images.
        seed: seed of the sample.

    Raises:
        InputError: if ``power`` is not positive, ``threshold`` not in [0, 1) or ``bank_size`` below 1.
    """

    score_only = ("power", "threshold")
    bank: Shared[RelationBank]

    banks = ("bank", "probs")

    def __init__(self, power: float = 1.0, threshold: float = 0.03, bank_size: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        check_positive("power", power)
        check_share("threshold", threshold)
        check_at_least("bank_size", bank_size, 1)
        self.power, self.threshold, self.bank_size, self.seed = power, threshold, bank_size, seed

    def setup(self, info: NetworkInfo) -> None:
        """Declares the bank."""
        super().setup(info)
        size = self.bank_size if info.labels is None else min(self.bank_size, max(len(info.labels), 1))
        self.width = info.num_features
        self.bank = share(info, RelationBank, size, info.num_features + info.num_classes, self.seed)

    def update(self, features: Features) -> None:
        """Considers the directions and probabilities of a batch for the bank."""
        self.bank.update(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``bank`` [N, D], unit vectors, and ``probs`` [N, K]."""
        rows = self.bank.statistic.draw()
        self._require_images(torch.tensor(len(rows)))
        return {"bank": rows[:, : self.width], "probs": rows[:, self.width :]}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, from 0 to 1."""
        relations = features.similarity(fitted["bank"]).clamp(min=0) * (features.probs @ fitted["probs"].T)  # [B, N]
        return torch.where(relations > self.threshold, relations, 0).pow(self.power).mean(1)
