"""ViM: Out-Of-Distribution with Virtual-logit Matching. Wang et al., CVPR 2022. https://arxiv.org/abs/2203.10807."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.normalization import normalized, normalized_rows
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.detectors.residual import Residual, residual_norm
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.sample import Sample


class ViM(Residual):
    """Energy minus a virtual logit, the scaled residual norm: ``logsumexp(f) - alpha * ||R^T (z - u)||`` (eq. 8).

    ``alpha = mean(max_k f_k) / mean(||R^T (z - u)||)`` over training images matches the scales. The score has the same
    order as the paper's softmax probability of the virtual logit. Any sign.

    Fits on all training images, in one pass. State: that of :class:`Residual`, 2 numbers, and the sample,
    ``rows * (D + 1)`` numbers (33 MB at D = 2048).

    Deviations: R comes from all training images (authors: 200,000 random ones). The residual space is available only
    after the pass, so the mean residual norm in alpha is that of a uniform sample of ``rows`` images. Its relative
    standard error is the norm's coefficient of variation divided by ``sqrt(rows)``, below 1 % for 4096. If the
    training features have no residual (fewer images than ``dim``), alpha is bounded by float32 rounding.

    Args:
        dim: dimension of the principal space; see :class:`Residual`.
        rows: number of images in the sample for alpha.
        seed: seed of the sample.
        power: exponent of the length that the feature of the residual is divided by; see :class:`Residual`.
    """

    positive = True  # the score is positive for clearly ID images

    max_logit: Tensor
    seen: Tensor
    sample: Shared[Sample]

    def __init__(self, dim: int | None = None, rows: int = 4096, seed: int = 0, power: float = 0.0) -> None:
        super().__init__(dim, power)
        check_at_least("rows", rows, 1)
        self.rows, self.seed = rows, seed

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums and the sample."""
        super().setup(info)
        self.add_state("max_logit", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("seen", torch.zeros((), dtype=torch.float64), "sum")
        self.sample = share(info, Sample, self.rows, info.num_features, self.seed)

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments and the sum of largest logits, and considers it for the sample."""
        super().update(features)
        self.max_logit = self.max_logit + features.logits.amax(1).double().sum()
        self.seen = self.seen + len(features)
        self.sample.update(features.pooled, index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``origin`` [D], ``residual`` [D, D - dim] and the scalar ``alpha``."""
        fitted = super().compute()
        rows = normalized_rows(self.sample.statistic.draw(), self.power)  # [n, D]
        rounding = torch.finfo(rows.dtype).eps * (rows - fitted["origin"]).norm(dim=1).mean()
        mean_norm = residual_norm(rows, fitted).mean().clamp(min=rounding)
        return {**fitted, "alpha": (self.max_logit / self.seen).float() / mean_norm}

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns alpha."""
        return {"alpha": float(fitted["alpha"])}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        return features.logits.logsumexp(1) - fitted["alpha"] * residual_norm(normalized(features, self.power), fitted)
