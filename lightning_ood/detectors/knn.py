"""Out-of-Distribution Detection with Deep Nearest Neighbors. Sun et al., ICML 2022. https://arxiv.org/abs/2204.06507."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import SMALLEST, Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.sample import Sample


class Bank(Sample):
    """A uniform sample of training images: direction of the penultimate feature and energy of each.

    A zero feature has no direction and is left out.

    Args:
        size: largest number of images.
        width: D.
        seed: seed of the sample.
    """

    def __init__(self, size: int, width: int, seed: int = 0) -> None:
        super().__init__(size, width + 1, seed)

    def update(self, features: Features) -> None:  # type: ignore[override]
        """Considers a batch for the sample."""
        energy = features.logits.logsumexp(1, keepdim=True)
        super().update(torch.cat([features.direction, energy], dim=1), index_of(features))

    def _gathered_rows(self) -> Tensor:
        """Returns ``[N, D + 1]``: a unit vector per row, then its energy."""
        rows = super()._gathered_rows()
        nonzero = rows[:, :-1].any(1)  # [N]
        return rows if nonzero.all() else rows[nonzero]


def draw_bank(info: NetworkInfo, size: int, seed: int) -> Shared[Bank]:
    """Returns a bank of at most ``size`` training images, no larger than the fit set if that is known."""
    limit = size if info.labels is None else min(size, max(len(info.labels), 1))
    return share(info, Bank, limit, info.num_features, seed)


def check_k(k: int, bank_size: int) -> None:
    """Checks that a bank of ``bank_size`` features has a k-th neighbour.

    Raises:
        InputError: if ``k`` is not between 1 and ``bank_size``.
    """
    if not 1 <= k <= bank_size:
        raise InputError(
            f"k={k} asks for a neighbour that the bank of {bank_size} training features does not have; "
            f"write a k from 1 to {bank_size}, or a larger bank_size or fit set"
        )


class Neighbours(Detector):
    """Base class of detectors that read the nearest rows of a bank of training images.

    Args:
        k: number of neighbours.
        bank_size: largest number of training features.
        seed: seed of the sample.
    """

    score_only = ("k",)
    banks = ("bank", "energy")

    bank: Shared[Bank]

    def __init__(self, k: int, bank_size: int, seed: int) -> None:
        super().__init__()
        check_at_least("k", k, 1)
        check_at_least("bank_size", bank_size, 1)
        self.k, self.bank_size, self.seed = k, bank_size, seed

    def setup(self, info: NetworkInfo) -> None:
        """Declares the bank."""
        super().setup(info)
        self.bank = draw_bank(info, self.bank_size, self.seed)

    def update(self, features: Features) -> None:
        """Considers the directions and energies of a batch for the bank."""
        self.bank.update(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``bank`` [N, D], unit vectors, and ``energy`` [N], the logsumexp of each image's logits."""
        bank = self.bank.once("columns", self._columns)
        check_k(self.k, len(bank["bank"]))
        return dict(bank)

    def _columns(self) -> dict[str, Tensor]:
        rows = self.bank.statistic.draw()  # [N, D + 1]
        return {"bank": rows[:, :-1], "energy": rows[:, -1]}


class KNN(Neighbours):
    """Negative Euclidean distance to the k-th nearest training feature, both of unit length (section 3).

    ``-||z/|z| - z_(k)/|z_(k)|||``; between -2 and 0.

    Fits on a uniform sample of ``bank_size`` training images (the paper's fraction alpha), or on all if there are
    fewer. State: ``bank_size * (D + 2)`` numbers, 410 MB at 50,000 x 2048, shared by all detectors of a run with the
    same bank. Scoring costs ``bank_size * D`` multiplications per image: about 0.9 ms on two CPU cores at
    50,000 x 512, a fifth of that at 10,000 x 512. The paper's k: 50 for CIFAR-10, 200 for CIFAR-100, 1000 for
    ImageNet, or 10 with 1 % of its images.

    Deviations: the distance and not its square (OpenOOD); the order is the same. A zero feature has no direction: a
    test image with one has distance 1 to every neighbour, a training image with one is left out of the bank.

    Args:
        k: rank of the neighbour.
        bank_size: largest number of training features.
        seed: seed of the sample.

    Raises:
        InputError: if the bank has fewer than ``k`` features.
    """

    reads_logits = False

    def __init__(self, k: int = 50, bank_size: int = 50_000, seed: int = 0) -> None:
        super().__init__(k, bank_size, seed)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``bank`` [N, D], unit vectors."""
        return {"bank": super().compute()["bank"]}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, from -2 to 0."""
        return -self.distance(features, fitted)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns ``log(1 / (distance + 1e-6))`` ``[B]``, since the score itself is negative."""
        return -(self.distance(features, fitted) + SMALLEST).log()

    def distance(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the distance ``[B]`` to the k-th nearest row of the bank.

        Inner products select the neighbour. Its distance is then computed from the difference, since ``2 - 2 cos``
        loses the digits of a small distance.
        """
        bank = fitted["bank"]
        check_k(self.k, len(bank))

        def distance() -> Tensor:
            neighbour = features.similarity(bank).topk(self.k, dim=1).indices[:, -1]  # [B, N] -> [B, k] -> [B]
            return torch.linalg.vector_norm(features.direction - bank[neighbour], dim=1)

        return features.cached(("distance", self.k), bank, distance)
