"""Towards Open Set Deep Networks. Bendale, Boult. CVPR 2016. https://arxiv.org/abs/1511.06233."""

import torch
from scipy.stats import weibull_min
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of, labels_of
from lightning_ood.detectors.doubts import Seen, few_doubts
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.sample import Sample


class OpenMax(Detector):
    """Log-odds of the known classes against an unknown one, whose logit is taken from the largest logits (algorithm 2).

    ``mu_c`` is the mean of the logits of the training images of class c that are classified correctly. A Weibull
    distribution is fitted to the ``tail`` largest distances of such images to their mean; ``w_c(f)`` is its
    distribution function at ``||f - mu_c||``. Of the ``alpha`` largest logits the i-th gives the share
    ``w_c (alpha + 1 - i) / alpha`` of itself to the unknown class: with ``g`` the logits that are left and ``u`` the
    sum of what was given, the score is ``logsumexp(g) - u``. Any sign; it orders as 1 minus the probability of the
    unknown class.

    Fits on all training images and their labels; the distances are those of a uniform sample of ``rows`` images, since
    the means are available only after the pass. State: K * K + K float64 and ``rows * (K + 3)`` numbers (2.6 MB at
    K = 10, 200 MB at K = 1000); fitted: ``means`` [K, K], ``shape``, ``scale`` and ``shift`` [K].

    Deviations: Euclidean distance and ``alpha`` 3 as OpenOOD (the paper mixes it with the cosine and takes 10). The
    maximum-likelihood fit is scipy's, of the distances moved so that the smallest of the tail is 1, as libmr does. A
    class with fewer than two different distances has no distribution and gives nothing away.

    Args:
        tail: number of distances that the distribution of a class is fitted to.
        alpha: number of largest logits that are revised.
        rows: largest number of images in the sample.
        seed: seed of the sample.

    Raises:
        InputError: if ``tail`` is below 2, ``alpha`` or ``rows`` below 1, or no training image is classified correctly.
    """

    labels = True

    score_only = ("alpha",)

    sums: Tensor
    count: Tensor

    def __init__(self, tail: int = 20, alpha: int = 3, rows: int = 50_000, seed: int = 0) -> None:
        super().__init__()
        for name, value, least in (("tail", tail, 2), ("alpha", alpha, 1), ("rows", rows, 1)):
            check_at_least(name, value, least)
        self.tail, self.alpha, self.rows, self.seed = tail, alpha, rows, seed

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums of the logits and the sample."""
        super().setup(info)
        classes = info.num_classes
        size = self.rows if info.labels is None else min(self.rows, max(len(info.labels), 1))
        self.add_state("sums", torch.zeros(classes, classes, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(classes, dtype=torch.float64), "sum")
        self.sample = Sample(size, classes + 1, self.seed)

    def update(self, features: Features) -> None:
        """Adds the correctly classified images of a batch and considers all for the sample."""
        labels = labels_of(features)
        correct = features.prediction == labels
        self.sums = self.sums.index_add(0, labels, features.logits * correct.double()[:, None])
        self.count = self.count.index_add(0, labels, correct.double())
        group = torch.where(correct, labels, -1).float()[:, None]
        self.sample.update(torch.cat([features.logits, group], dim=1), index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``means`` [K, K] and the parameters ``shape``, ``scale`` and ``shift`` [K] of each class."""
        if not self.count.any():
            raise InputError(
                "OpenMax averages over correctly classified training images, and there is none; check the labels and "
                "the weights of the network"
            )
        means = self.sums / self.count.clamp(min=1)[:, None]
        rows = self.sample.draw()
        parameters = means.new_zeros(3, len(means))
        parameters[1] = 1
        for c in self.count.nonzero().flatten().tolist():
            distances = (rows[rows[:, -1] == c, :-1].double() - means[c]).norm(dim=1)
            tail = distances.sort().values[-self.tail :]
            if len(tail) > 1 and tail[-1] > tail[0] * (1 + 1e-6):
                shape, _, scale = weibull_min.fit((tail + 1 - tail[0]).cpu().numpy(), floc=0)
                parameters[:, c] = parameters.new_tensor([shape, scale, 1 - float(tail[0])])
        shape, scale, shift = parameters.float()
        return {"means": means.float(), "shape": shape, "scale": scale, "shift": shift}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts distributions of few distances."""
        return [
            *super().doubts(fitted, seen),
            *few_doubts(seen, len(fitted["means"]), "its distributions of distances", self.tail),
        ]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        logits = features.logits
        alpha = min(self.alpha, logits.shape[1])
        distance = torch.cdist(logits, fitted["means"], compute_mode="donot_use_mm_for_euclid_dist")  # [B, K]
        moved = ((distance + fitted["shift"]) / fitted["scale"]).clamp(min=0)
        power = moved.pow(fitted["shape"])  # 1 where a class has no distribution
        outside = torch.where(fitted["shape"] > 0, -torch.expm1(-power), 0)  # w [B, K]
        ranked = logits.topk(alpha, dim=1).indices  # [B, alpha]
        weights = 1 - torch.arange(alpha, device=logits.device, dtype=logits.dtype) / self.alpha
        omega = torch.zeros_like(logits).scatter(1, ranked, weights.expand(len(logits), -1))
        given = logits * outside * omega
        return (logits - given).logsumexp(1) - given.sum(1)
