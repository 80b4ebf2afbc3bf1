"""NECO: Neural Collapse Based OOD Detection. Ben Ammar et al., ICLR 2024. https://arxiv.org/abs/2310.06823."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments


class NECO(Detector):
    """Share of the standardised feature inside the principal space of the training features, times the largest logit.

    ``||P h|| / ||h|| * max_k f_k`` (eq. 6): ``h = (z - mean) / std`` unit by unit, P the first principal components of
    h on the training images. Any sign, because of the logit; without it between 0 and 1.

    Fits on all training images. State: D**2 + D + 1 float64, shared with Residual and ViM; fitted: ``mean`` and
    ``std`` [D], ``components`` [D, q].

    Deviations: the authors choose the number of components for each network by hand; here, as in the benchmark of
    Mahalanobis++ (mueller-mp/maha-norm), it is the smallest that explains a share of the variance, or ``dim``. The
    authors leave the standardisation out for DeiT and Swin: ``standardize: false``. A unit that is constant on the
    training images is centred and not divided, as in scikit-learn.

    Args:
        variance: share of the variance that the components explain, in (0, 1).
        dim: number of components instead of ``variance``.
        use_logit: whether to multiply by the largest logit.
        standardize: whether to centre and divide each unit; else h = z, and components are those of the centred z.

    Raises:
        InputError: if ``variance`` is not in (0, 1), or if ``dim`` is not between 1 and D.
    """

    score_only = ("use_logit",)
    moments: Shared[Moments]

    def __init__(
        self, variance: float = 0.9, dim: int | None = None, use_logit: bool = True, standardize: bool = True
    ) -> None:
        super().__init__()
        if not 0 < variance < 1:
            raise InputError(f"variance={variance} is not in (0, 1); write for example 0.9")
        check_at_least("dim", 1 if dim is None else dim, 1)
        self.variance, self.dim, self.use_logit, self.standardize = variance, dim, use_logit, standardize
        self.reads_logits = use_logit

    def setup(self, info: NetworkInfo) -> None:
        """Checks ``dim`` against the network and declares the sums."""
        super().setup(info)
        width = info.num_features
        if self.dim is not None and not 1 <= self.dim <= width:
            raise InputError(f"dim={self.dim} is no number of components of {width} units; write one from 1 to {width}")
        self.moments = share(info, Moments, 1, width, 0.0)

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments."""
        self.moments.update(features.pooled, None, features.products)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``mean`` and ``std`` [D] and ``components`` [D, q], float32."""
        share, means, second = self.moments.statistic.statistics()
        self._require_images(share)
        mean = means[0]
        covariance = second - torch.outer(mean, mean)
        std = torch.ones_like(mean)
        if self.standardize:
            deviation = covariance.diagonal()
            varies = deviation > 1e-14 * len(mean) * second.diagonal().amax()  # above the rounding of float32 features
            std = torch.where(varies, deviation, 1).sqrt()
            covariance = covariance / torch.outer(std, std) * torch.outer(varies, varies)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)  # descending
        explained = values.cumsum(0) / values.sum().clamp(min=1e-300)
        count = self.dim or min(int((explained < self.variance).sum()) + 1, len(mean))
        center = mean if self.standardize else torch.zeros_like(mean)
        return {"mean": center.float(), "std": std.float(), "components": vectors[:, :count].float().contiguous()}

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the number of components."""
        return {"components": fitted["components"].shape[1]}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``."""
        h = (features.pooled - fitted["mean"]) / fitted["std"]  # [B, D]
        inside = (h @ fitted["components"]).norm(dim=1) / h.norm(dim=1).clamp(min=1e-12)
        return inside * features.logits.amax(1) if self.use_logit else inside
