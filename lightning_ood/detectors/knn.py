"""Out-of-Distribution Detection with Deep Nearest Neighbors. Sun et al., ICML 2022. https://arxiv.org/abs/2204.06507."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import SMALLEST, Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.sample import Sample


class Bank(Sample):
    """A uniform sample of training images: the direction of each one's penultimate feature, and its energy.

    A zero feature has no direction and is left out.

    Args:
        size: how many images are kept at most.
        width: D.
        seed: draws another sample.
    """

    def __init__(self, size: int, width: int, seed: int = 0) -> None:
        super().__init__(size, width + 1, seed)

    def update(self, features: Features) -> None:  # type: ignore[override]
        """Offers a batch."""
        energy = features.logits.logsumexp(1, keepdim=True)
        super().update(torch.cat([features.direction, energy], dim=1), index_of(features))

    def _gathered_rows(self) -> Tensor:
        """``[N, D + 1]``: unit rows, energies last."""
        rows = super()._gathered_rows()
        known = rows[:, :-1].any(1)
        return rows if known.all() else rows[known]


def draw_bank(info: NetworkInfo, size: int, seed: int) -> Shared[Bank]:
    """A bank of at most ``size`` training images, no larger than the fit set where that is known."""
    known = size if info.labels is None else min(size, max(len(info.labels), 1))
    return share(info, Bank, known, info.num_features, seed)


def check_k(k: int, held: int) -> None:
    """Refuses a k that the bank cannot serve.

    Raises:
        InputError: if ``k`` is not between 1 and ``held``.
    """
    if not 1 <= k <= held:
        raise InputError(
            f"k={k} asks for a neighbour that the bank of {held} training features does not have; "
            f"write a k from 1 to {held}, or a larger bank_size or fit set"
        )


class Neighbours(Detector):
    """What reads the nearest rows of a bank of training images.

    Args:
        k: how many neighbours count.
        bank_size: training features kept at most.
        seed: draws another sample.
    """

    score_only = ("k",)
    bank: Shared[Bank]

    def __init__(self, k: int, bank_size: int, seed: int) -> None:
        super().__init__()
        self.k, self.bank_size, self.seed = k, bank_size, seed

    def setup(self, info: NetworkInfo) -> None:
        """Declares the bank."""
        super().setup(info)
        self.bank = draw_bank(info, self.bank_size, self.seed)

    def update(self, features: Features) -> None:
        """Offers the directions and energies of a batch to the bank."""
        self.bank.update(features)

    def compute(self) -> dict[str, Tensor]:
        """``bank`` [N, D], unit rows, and ``energy`` [N], their logsumexp."""
        bank = self.bank.once("parts", self._parts)
        check_k(self.k, len(bank["bank"]))
        return dict(bank)

    def _parts(self) -> dict[str, Tensor]:
        rows = self.bank.statistic.draw()
        return {"bank": rows[:, :-1], "energy": rows[:, -1]}


class KNN(Neighbours):
    """Euclidean distance to the k-th nearest training feature, both of unit length, negative (section 3).

    ``-||z/|z| - z_(k)/|z_(k)|||``; between -2 and 0.

    Fits on a uniform sample of ``bank_size`` training images (the paper's fraction alpha), all of them where there
    are fewer. State: ``bank_size * (D + 2)`` numbers, 410 MB at 50,000 x 2048, once for all detectors of a run that
    draw the same bank. Scoring costs ``bank_size * D``
    multiplications an image: about 0.9 ms on two CPU cores at 50,000 x 512, a fifth of that for 10,000.
    The paper's k: 50 for CIFAR-10, 200 for CIFAR-100, 1000 for ImageNet, or 10 with 1 % of its images.

    Deviations: the distance, not its square (OpenOOD); the same order. A zero feature has no direction: in a test
    image its distance to every neighbour is 1, in training images it is left out of the bank.

    Args:
        k: which neighbour.
        bank_size: training features kept at most.
        seed: draws another sample.

    Raises:
        InputError: if the bank holds fewer than ``k`` features.
    """

    def __init__(self, k: int = 50, bank_size: int = 50_000, seed: int = 0) -> None:
        super().__init__(k, bank_size, seed)

    def compute(self) -> dict[str, Tensor]:
        """``bank`` [N, D], unit rows."""
        return {"bank": super().compute()["bank"]}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]``, from -2 to 0."""
        return -self.distance(features, fitted)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """``log(1 / (distance + 1e-6))``: the score itself is negative."""
        return -(self.distance(features, fitted) + SMALLEST).log()

    def distance(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]`` distance to the k-th nearest row of the bank.

        The products find the neighbour; its distance is then taken directly, since ``2 - 2 cos`` has lost the
        digits of a small one.
        """
        bank = fitted["bank"]
        check_k(self.k, len(bank))

        def distance() -> Tensor:
            neighbour = features.similarity(bank).topk(self.k, dim=1).indices[:, -1]
            return torch.linalg.vector_norm(features.direction - bank[neighbour], dim=1)

        return features.cached(("distance", self.k), bank, distance)
