"""GROOD: Gradient-Aware Out-of-Distribution Detection. ElAraby et al., TMLR 2025. https://arxiv.org/abs/2312.14427."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of, labels_of
from lightning_ood.detectors.doubts import Seen, few_doubts
from lightning_ood.detectors.knn import check_k
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.class_means import ClassMeans
from lightning_ood.statistics.moments import Mean
from lightning_ood.statistics.sample import Sample
from lightning_ood.views import View


class GROOD(Detector):
    """Negative distance of an image's gradient by an OOD prototype to the gradients of training images.

    A nearest-prototype classifier has a logit ``-||z - p_k||`` for each class mean ``p_k`` and one for an OOD prototype
    ``p_o``. The gradient of its cross-entropy by ``p_o`` is, for any class as the target,
    ``q_o (z - p_o) / ||z - p_o||``, ``q_o`` the softmax of the OOD prototype. The score is the negative distance to the
    k-th nearest such gradient of a training image that the network classifies correctly. Never positive.

    Fits on all training images and their labels; the gradients are those of a uniform sample of ``bank_size`` images.
    State: K * (D + 1) + D + 1 float64 and ``bank_size * (D + 2)`` numbers (82 MB at D = 2048); fitted: ``prototypes``
    [K, D], ``ood`` [D], ``bank`` [n, D]. Scoring costs ``bank_size * D`` multiplications per image.

    Deviations: the authors' OOD prototype is the mean feature of uniform noise images of low energy, or of features
    that are mixed in an early layer and passed on. Neither comes out of the one pass. Here it is the mean of the class
    means (a setting of their code), or the mean feature of a transform of the training images. All distances are
    computed, where they search an approximate index. A class without training images has no prototype.

    Args:
        k: rank of the neighbour.
        pseudo_ood: transform of the training images whose mean feature is the OOD prototype (one more forward per
            training image); the mean of the class means where None.
        bank_size: largest number of gradients.
        seed: seed of the sample.

    Raises:
        InputError: if no training image is classified correctly, or fewer than ``k`` of the sample.
    """

    labels = True

    positive = False
    score_only = ("k",)

    means: Shared[ClassMeans]
    sample: Shared[Sample]
    ood_mean: Shared[Mean]

    def __init__(self, k: int = 1, pseudo_ood: View | None = None, bank_size: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        check_at_least("k", k, 1)
        check_at_least("bank_size", bank_size, 1)
        self.k, self.pseudo_ood, self.bank_size, self.seed = k, pseudo_ood, bank_size, seed
        self.views: tuple[View, ...] = () if pseudo_ood is None else (pseudo_ood,)

    def setup(self, info: NetworkInfo) -> None:
        """Declares the class means, the sample and the mean of the transformed images."""
        super().setup(info)
        width = info.num_features
        size = self.bank_size if info.labels is None else min(self.bank_size, max(len(info.labels), 1))
        self.means = share(info, ClassMeans, info.num_classes, width, "label")
        self.sample = share(info, Sample, size, width + 1, self.seed)
        if self.pseudo_ood is not None:
            self.ood_mean = share(info, Mean, width)

    def update(self, features: Features) -> None:
        """Adds a batch to the means and considers it for the sample."""
        labels = labels_of(features)
        self.means.update(features.pooled, labels)
        correct = (features.prediction == labels).float()[:, None]
        self.sample.update(torch.cat([features.pooled, correct], dim=1), index_of(features))
        if self.pseudo_ood is not None:
            self.ood_mean.update(features.views[self.pseudo_ood].pooled)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``prototypes`` [classes seen, D], ``ood`` [D] and the gradients ``bank`` [n, D], float32."""
        means, count = self.means.compute()
        self._require_images(count)
        prototypes = means[count > 0]
        ood = prototypes.mean(0)
        if self.pseudo_ood is not None:
            sums, images = self.ood_mean.compute()
            ood = sums / images
        rows = self.sample.statistic.draw()
        rows = rows[rows[:, -1] > 0, :-1]
        if len(rows) == 0:
            raise InputError("GROOD compares with correctly classified training images, and there is none")
        check_k(self.k, len(rows))
        fitted = {"prototypes": prototypes.float(), "ood": ood.float()}
        return {**fitted, "bank": gradients(rows, fitted)}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts prototypes of few images."""
        return [*super().doubts(fitted, seen), *few_doubts(seen, len(fitted["prototypes"]), "its prototypes")]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        own, bank = gradients(features.pooled, fitted), fitted["bank"]
        check_k(self.k, len(bank))
        # Inner products select the neighbour; its distance is computed from the difference, which keeps its digits.
        squared = bank.square().sum(1) - 2 * own @ bank.T  # [B, n], less the constant of each row
        neighbour = squared.topk(self.k, dim=1, largest=False).indices[:, -1]
        return -(own - bank[neighbour]).norm(dim=1)


def gradients(rows: Tensor, fitted: Fitted) -> Tensor:
    """Computes the gradient ``[n, D]`` of each feature ``[n, D]`` by the OOD prototype."""
    known = torch.cdist(rows, fitted["prototypes"], compute_mode="donot_use_mm_for_euclid_dist")  # [n, classes]
    difference = rows - fitted["ood"]  # [n, D]
    distance = difference.norm(dim=1, keepdim=True)  # [n, 1]
    share = torch.cat([-known, -distance], dim=1).softmax(1)[:, -1:]  # of the OOD prototype
    return share * difference / distance.clamp(min=1e-12)
