"""CADRef: Robust OOD Detection via Class-Aware Decoupled Relative Feature Leveraging. Ling et al., CVPR 2025.

https://arxiv.org/abs/2503.00325
"""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import check_steps
from lightning_ood.detectors.doubts import Seen, few_doubts
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.class_means import ClassMeans

_SMALLEST_NORM = 1e-12


class CARef(Detector):
    """Negative distance to the mean feature of the predicted class, relative to the feature's length, both in L1.

    ``-||z - mu_y||_1 / ||z||_1``: y is the predicted class, ``mu_y`` the mean feature of the training images for which
    y is predicted. Never positive.

    Fits on all training images, without labels. State: K * D + K float64; fitted: ``means`` [K, D], ``present`` [K].

    Deviation: a class that is predicted for no training image has no mean (the authors' code gives NaN); y is then the
    class with the largest logit among the others.
    """

    positive = False

    means: Shared[ClassMeans]

    def setup(self, info: NetworkInfo) -> None:
        """Declares the means of the predicted classes."""
        super().setup(info)
        self.means = share(info, ClassMeans, info.num_classes, info.num_features, "prediction")

    def update(self, features: Features) -> None:
        """Adds a batch to the means of the predicted classes."""
        self.means.update(features.pooled, features.prediction)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``means`` [K, D] and ``present`` [K], whether a class has a mean."""
        means, count = self.means.compute()
        self._require_images(count)
        return {"means": means.float(), "present": count > 0}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts class means of few images."""
        return [*super().doubts(fitted, seen), *few_doubts(seen, len(fitted["means"]), "its class means")]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        difference, _ = self._difference(features, fitted)
        return -relative(difference.abs(), features.pooled)

    def _difference(self, features: Features, fitted: Fitted) -> tuple[Tensor, Tensor]:
        """Returns ``z - mu_y`` [B, D] and y [B]."""
        y = features.logits.where(fitted["present"], -torch.inf).argmax(1)
        return features.pooled - fitted["means"][y], y


class CADRef(CARef):
    """CARef with its error split by the sign of its effect on the predicted class's logit; one part over a logit score.

    ``-(e_p / s(f) + e_n / mean s(f))`` with the relative errors ``e_p = sum_i relu(d_i sign W[y, i]) / ||z||_1`` and
    ``e_n = sum_i relu(-d_i sign W[y, i]) / ||z||_1`` of ``d = z - mu_y``; s is a positive score of the logits, its mean
    that over the training images. Never positive.

    Fits on all training images, without labels. State: that of CARef and 2 numbers; fitted: that of CARef and
    ``mean_score``.

    Deviations: that of CARef; s is the base's positive form (MSP: the probability itself), at least 1e-6, since an
    energy can be negative for a small network. The authors' GEN form, ``1 / GEN``, is not offered.

    Args:
        base: s, a score of the logits with a positive form; Energy (the authors' default) where None.

    Raises:
        InputError: if the base has no positive form, or perturbs images.
    """

    linear_head = True

    score_sum: Tensor
    images: Tensor

    def __init__(self, base: LogitScore | None = None) -> None:
        super().__init__()
        self.base = base if base is not None else Energy()
        if not self.base.positive:
            raise InputError(
                f"CADRef divides by its base, and {type(self.base).__name__} is never positive; write Energy"
            )

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        check_steps("CADRef", [self.base])
        self.add_state("score_sum", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, features: Features) -> None:
        """Adds a batch to the means of the predicted classes and to the mean score."""
        super().update(features)
        self.score_sum = self.score_sum + self._logit_score(features).double().sum()
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes what CARef does, and the scalar ``mean_score``."""
        return {**super().compute(), "mean_score": (self.score_sum / self.images).float()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        assert features.head is not None
        difference, y = self._difference(features, fitted)
        signed = difference * features.head.weight[y].sign()  # [B, D]
        positive, negative = (relative(part.clamp(min=0), features.pooled) for part in (signed, -signed))
        return -(positive / self._logit_score(features) + negative / fitted["mean_score"])

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the mean logit score."""
        return {"mean_score": float(fitted["mean_score"])}

    def _logit_score(self, features: Features) -> Tensor:
        return self.base.log_of_logits(features.logits).exp().clamp(min=1e-6)


def relative(error: Tensor, pooled: Tensor) -> Tensor:
    """Sums errors ``[B, D]`` and divides by the L1 norm of the feature: ``[B]``."""
    return error.sum(1) / pooled.abs().sum(1).clamp(min=_SMALLEST_NORM)
