"""AdaSCALE: Adaptive Scaling for OOD Detection. Regmi. 2025. https://arxiv.org/abs/2503.08023."""

from typing import Literal

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.calibration import bounded, check_steps
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_at_least, check_number, check_positive, check_share
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.sample import Sample
from lightning_ood.views import Perturbation
from lightning_ood.views.perturbation import TrivialPixels

_LARGEST_RATIO = 60.0  # exp(60) = 1e26 times any feature and weight stays within float32


class AdaSCALE(Shaping):
    """SCALE or LTS with a percentile of each image's own, from how far a small perturbation moves its feature.

    ``x'`` is the image after a step of ``step`` along the gradient of its largest logit, in the sign alone and only in
    the ``share`` of its entries where the gradient is smallest; ``z'`` is its feature. With ``t1`` and ``t2`` the
    largest ``k1`` and ``k2`` percent of the units of z, ``Q' = sum_t1 relu(z') + weight sum_t2 |z - z'|`` (eq. 6). The
    percentile is ``low + (1 - ECDF(Q')) (high - low)`` (eq. 7), ECDF the distribution of Q' over training images:
    a feature that moves little is scaled by a larger percentile. With s1 the sum of the positive units of z and s2 that
    of those above the percentile, variant ``a`` multiplies z by ``exp(s1 / s2)``, ``l`` the logits by ``(s1 / s2)^2``.

    Costs a backward and a forward pass per image, in the fit and in the test. Fits on a uniform sample of ``images``
    training images, without labels. State: one number per image of the sample;
    fitted: ``shifts`` ``[n]``, the same.

    Deviations: the authors fit on 5000 images of the ID validation set. At least one unit is in each sum (at D = 16
    their rounding leaves none). An image without a positive unit keeps its logits, and the exponent is at most 60.

    Args:
        variant: ``a`` scales the activations, ``l`` the logits.
        low: percentile of an image whose feature moves most.
        high: percentile of an image whose feature moves least. The defaults are the authors' for ImageNet ResNet-50.
        k1: percent of the units in the first sum.
        k2: percent of the units in the second.
        weight: of the second sum, lambda.
        share: fraction of the entries of an image that are perturbed, o.
        step: length of the step, in units of the network's normalised input.
        images: largest number of training images in the distribution.
        seed: seed of the sample.
        base: the score of the new logits; Energy where None. It may not perturb images itself.

    Raises:
        InputError: if a percentile is not in (0, 100), ``low`` is above ``high``, or another number is out of range.
    """

    score_only = ("low", "high")

    def __init__(
        self,
        variant: Literal["a", "l"] = "a",
        low: float = 80.0,
        high: float = 85.0,
        k1: float = 5.0,
        k2: float = 1.0,
        weight: float = 10.0,
        share: float = 0.05,
        step: float = 0.5,
        images: int = 10_000,
        seed: int = 0,
        base: LogitScore | None = None,
    ) -> None:
        super().__init__(base)
        if variant not in ("a", "l"):
            raise InputError(f"variant={variant!r} is not a variant of AdaSCALE: write a or l")
        if not 0 < low <= high < 100:
            raise InputError(f"low={low}, high={high} have to be percentiles, 0 < low <= high < 100; write 80 and 85")
        for name, value in (("k1", k1), ("k2", k2)):
            if not 0 < value <= 100:
                raise InputError(f"{name}={value} is not a percentage of units: write a number above 0, at most 100")
        check_number("weight", weight)
        check_share("share", share, below=False)
        check_positive("step", step)
        check_at_least("images", images, 1)
        self.variant, self.low, self.high = variant, low, high
        self.k1, self.k2, self.weight = k1, k2, weight
        self.share, self.step, self.images, self.seed = share, step, images, seed
        self.linear_head = variant == "a"
        self.steps = (TrivialPixels("largest logit", (step, step, step), _largest_logit, share),)

    def setup(self, info: NetworkInfo) -> None:
        """Makes the sample."""
        super().setup(info)
        check_steps("AdaSCALE", [self.base])
        self.sample = Sample(bounded(self.images, info), 1, self.seed)

    def update(self, features: Features) -> None:
        """Considers the shifts of a batch for the sample."""
        self.sample.update(self._shift(features)[:, None], index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Returns ``shifts`` ``[n]``, Q' of the sampled images, ascending."""
        shifts = self.sample.draw().flatten()
        self._require_images(torch.tensor(len(shifts)))
        return {"shifts": shifts.sort().values}

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the shaped logits ``[B, K]``."""
        scale = self._ratio(features.pooled, self.percentile(features, fitted))
        if self.variant == "l":
            return features.logits * torch.where(scale > 0, scale, 1).square()
        assert features.head is not None
        return features.head(features.pooled * scale.clamp(max=_LARGEST_RATIO).exp())

    def percentile(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the percentile ``[B]`` of each image, float64."""
        shifts = fitted["shifts"]
        below = torch.searchsorted(shifts, self._shift(features).contiguous(), right=True)  # [B]
        return self.low + (1 - below.double() / len(shifts)) * (self.high - self.low)

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Returns the step of the few pixels."""
        return list(self.steps)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the median of Q'."""
        return {"median_shift": float(fitted["shifts"].median())}

    def _shift(self, features: Features) -> Tensor:
        """Computes Q' ``[B]``."""
        z, width = features.pooled, features.pooled.shape[1]
        if self.steps[0] not in features.views:
            raise InputError(
                "AdaSCALE reads perturbed images, in the fit and in the test, and this batch has none: stored features "
                "cannot be used; configure the backbone with the suite's `reads`"
            )
        moved = features.views[self.steps[0]].pooled
        first = z.topk(max(int(width * self.k1 / 100), 1), dim=1).indices
        second = z.topk(max(int(width * self.k2 / 100), 1), dim=1).indices
        return moved.relu().gather(1, first).sum(1) + self.weight * (z - moved).abs().gather(1, second).sum(1)

    @staticmethod
    def _ratio(pooled: Tensor, percentile: Tensor) -> Tensor:
        """Computes s1 / s2 ``[B, 1]`` of features ``[B, D]`` and percentiles ``[B]``; 0 where s2 is 0."""
        width = pooled.shape[1]
        kept = (width - (width * percentile / 100).round().long()).clamp(min=1)  # [B]
        ordered = pooled.relu().sort(dim=1, descending=True).values.cumsum(1)  # [B, D]
        s1, s2 = ordered[:, -1:], ordered.gather(1, kept[:, None] - 1)
        return torch.where(s2 > 0, s1 / torch.where(s2 > 0, s2, 1), 0)


def _largest_logit(features: Features) -> Tensor:
    return features.logits.max(dim=1).values
