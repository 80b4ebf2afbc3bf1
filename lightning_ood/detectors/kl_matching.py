"""Scaling OOD Detection for Real-World Settings. Hendrycks et al., ICML 2022. https://arxiv.org/abs/1911.11132."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, class_doubts
from lightning_ood.features import Features, NetworkInfo


class KLMatching(Detector):
    """Negative divergence of the softmax from the nearest class template: ``-min_k KL(p || d_k)`` (section 4.2).

    The template ``d_k`` is the mean softmax of the images predicted as class k. Never positive.

    Fits on the training images, without labels. State: K**2 + K float64 (8 MB at K = 1000).

    Deviations: the paper uses validation images (a network is more confident on its training images). A class that is
    never predicted has no ``d_k`` and is left out (OpenOOD uses a one-hot vector, which has infinite distance). Entries
    of ``d_k`` below the smallest normal float32 are raised to it.
    """

    positive = False

    sums: Tensor
    count: Tensor

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.add_state("sums", torch.zeros(info.num_classes, info.num_classes, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(info.num_classes, dtype=torch.float64), "sum")

    def update(self, features: Features) -> None:
        """Adds a batch's softmax to the sums of the predicted classes."""
        probs = features.probs.double()
        self.sums = self.sums.index_add(0, features.prediction, probs)
        self.count = self.count.index_add(0, features.prediction, probs.new_ones(len(probs)))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``log_typical`` [K, K], with log d_k in row k, and ``present`` [K], whether class k has a d_k."""
        self._require_images(self.count)
        typical = self.sums / self.count.clamp(min=1)[:, None]
        return {"log_typical": typical.clamp(min=torch.finfo(torch.float32).tiny).log(), "present": self.count > 0}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        probs = features.logits.double().softmax(1)
        log_typical = fitted["log_typical"]
        # sum_j p_j log p_j - p_j log d_kj as one matrix product [B, K], without a tensor [B, K, K].
        divergence = -torch.special.entr(probs).sum(1, keepdim=True) - probs @ log_typical.T
        return -divergence.where(fitted["present"], torch.inf).amin(1).float()

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts classes without a template."""
        what = "have no template (no training image is predicted as one): their images are compared with other classes"
        return [*super().doubts(fitted, seen), *class_doubts(fitted["present"], what)]
