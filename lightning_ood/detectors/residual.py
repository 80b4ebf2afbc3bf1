"""The residual term of ViM alone. Wang, Li, Feng, Zhang. CVPR 2022, section 4.1. https://arxiv.org/abs/2203.10807."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, rank_doubts
from lightning_ood.detectors.normalization import check_power, normalized, normalized_products
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments


def default_dim(width: int) -> int:
    """Returns the dimension of the principal space by the rule of ViM's authors: 1000, 512 or half of D."""
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else width // 2


class Residual(Detector):
    """Negative norm of the feature's component outside the principal space of the training features.

    ``-||R^T (z - u)||_2``. The origin ``u = -pinv(W) b`` makes the classifier's bias vanish. The columns of R are the
    eigenvectors of ``mean((z - u)(z - u)^T)`` (not centred on the mean) without those of the ``dim`` largest
    eigenvalues. Never positive.

    Fits on all training images. State: D**2 + D + 1 float64. Follows the ViM authors' benchmark, which lists it as
    Residual; it uses a symmetric eigen-solver, whose results are always real. Deviation: singular values of W below the
    rounding of its float32 entries count as zero. Weight decay makes the rows of W sum to about zero, and inverting
    that rounding error would move u far away.

    With a power p above 0 the feature is ``z / |z|^p`` (as in Mahalanobis++) and u = 0: the classifier's bias belongs
    to the raw feature.

    Args:
        dim: dimension of the principal space, 0 <= dim < D; None is the authors' rule (1000 where D >= 2048, 512 where
            D >= 768, else D // 2).
        power: exponent of the length that the feature is divided by; 0 leaves it as it is.

    Raises:
        InputError: if ``dim`` leaves no residual space, or if ``power`` is negative or not finite.
    """

    positive = False

    linear_head = True
    moments: Shared[Moments]

    def __init__(self, dim: int | None = None, power: float = 0.0) -> None:
        super().__init__()
        check_at_least("dim", 0 if dim is None else dim, 0)
        check_power(power)
        self.dim, self.power = dim, power

    def setup(self, info: NetworkInfo) -> None:
        """Checks ``dim`` against the network and declares the sums."""
        super().setup(info)
        width = info.num_features
        if self.dim is not None and not 0 <= self.dim < width:
            raise InputError(
                f"dim={self.dim} leaves {type(self).__name__} no residual space in a feature of {width} units; "
                f"write a dim from 0 to {width - 1}, or null for the authors' rule (here {default_dim(width)})"
            )
        self.moments = share(info, Moments, 1, width, self.power)

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments."""
        self.moments.update(normalized(features, self.power), None, normalized_products(features, self.power))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``origin`` u [D] and ``residual`` R [D, D - dim], float32."""
        return self.moments.once(("residual", self.dim), self._fit)

    def _fit(self) -> dict[str, Tensor]:
        share, means, second = self.moments.statistic.statistics()
        self._require_images(share)
        mean, origin = means[0], self._origin().to(second.device)
        cross = torch.outer(mean, origin)
        moment = second - cross - cross.T + torch.outer(origin, origin)  # [D, D], mean of (z - u)(z - u)^T
        vectors = torch.linalg.eigh(moment).eigenvectors  # [D, D], columns by ascending eigenvalue
        width = len(origin)
        dim = default_dim(width) if self.dim is None else self.dim
        return {"origin": origin.float(), "residual": vectors[:, : width - dim].float()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        return -residual_norm(normalized(features, self.power), fitted)

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a residual space in which training images have no component. Shrinkage would not change it."""
        advice = "fit on more images than the feature has units"
        what = "the second moment, whose smallest eigenvectors are the residual space,"
        return [*super().doubts(fitted, seen), *rank_doubts(seen.images, 0, seen.width, what, advice)]

    def _origin(self) -> Tensor:
        assert self.head is not None  # setup refuses a network without a linear head
        weight, bias = self.head.weight.double(), self.head.bias.double()
        if self.power:
            return weight.new_zeros(weight.shape[1])
        resolution = max(weight.shape) * torch.finfo(torch.float32).eps
        return -torch.linalg.pinv(weight, rtol=resolution) @ bias


def residual_norm(rows: Tensor, fitted: Fitted) -> Tensor:
    """Computes the norm ``[B]`` of the component of ``rows`` ``[B, D]`` outside the principal space."""
    return ((rows - fitted["origin"]) @ fitted["residual"]).norm(dim=1)
