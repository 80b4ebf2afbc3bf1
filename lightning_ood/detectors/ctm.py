"""A Cosine Similarity-based Method for OOD Detection. Ngoc-Hieu et al., 2023. https://arxiv.org/abs/2306.14920."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.doubts import Seen, few_doubts
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.class_means import ClassMeans


class CTM(Detector):
    """Class Typical Matching: cosine of the penultimate feature and the mean feature of a class, ``cos(z, mu_c)``.

    ``mu_c`` is the mean feature of the training images with label c. ``c`` is the class with the largest cosine, or the
    predicted class. Between -1 and 1; 0 for a zero feature.

    Fits on all training images and their labels. State: K * D + K float64; fitted: ``directions`` [K, D].

    Deviations: the maximum over classes is the form of MaxCosineSimilarity elsewhere. The paper's text was not at hand;
    ``compare: predicted`` is the other reading. A class without training images has no direction: its cosine counts as
    -1.

    Args:
        compare: the class: ``nearest`` or ``predicted``.

    Raises:
        InputError: if ``compare`` is neither.
    """

    labels = True

    score_only = ("compare",)
    means: Shared[ClassMeans]

    def __init__(self, compare: Literal["nearest", "predicted"] = "nearest") -> None:
        super().__init__()
        if compare not in ("nearest", "predicted"):
            raise InputError(f"compare={compare!r} is no class of CTM; write nearest or predicted")
        self.compare = compare
        self.reads_logits = compare == "predicted"

    def setup(self, info: NetworkInfo) -> None:
        """Declares the class means."""
        super().setup(info)
        self.means = share(info, ClassMeans, info.num_classes, info.num_features, "label")

    def update(self, features: Features) -> None:
        """Adds a batch to the class means."""
        self.means.update(features.pooled, labels_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``directions`` [K, D], class means of unit length, and ``present`` [K]."""
        means, count = self.means.compute()
        self._require_images(count)
        return {"directions": F.normalize(means, dim=1).float(), "present": count > 0}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts class means of few images."""
        return [*super().doubts(fitted, seen), *few_doubts(seen, len(fitted["directions"]), "its class means")]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, from -1 to 1."""
        cosine = (features.direction @ fitted["directions"].T).where(fitted["present"], -1)  # [B, K]
        if self.compare == "nearest":
            return cosine.amax(1)
        return cosine.gather(1, features.prediction[:, None]).squeeze(1)
