"""Kernel PCA for Out-of-Distribution Detection. Fang, Tao, Lv, He, Huang, Yang. NeurIPS 2024.

https://arxiv.org/abs/2402.02949
"""

import math

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, spectrum_doubts
from lightning_ood.detectors.normalization import normalized_products
from lightning_ood.detectors.ranges import check_at_least, check_positive
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics import Shared, share
from lightning_ood.statistics.moments import Moments


class CoP(Detector):
    """Negative reconstruction error of the feature's direction by principal components (cosine kernel, section 4.1).

    ``-||(I - U U^T)(y - c)||_2``: ``y = z / |z|``, c its mean over the training images, U the first components of its
    covariance, as many as explain a share of the variance. Never positive.

    Fits on all training images. State: D**2 + D + 1 float64; fitted: ``center`` [D] and ``residual`` [D, D - q].

    Deviations: none from the authors' code, but for a zero feature, which has no direction: y = 0. At least one
    component stays outside.

    Args:
        variance: share of the variance that the components explain. The authors: 0.85 for a CIFAR-10 ResNet-18, 0.99
            for an ImageNet ResNet-50.

    Raises:
        InputError: if ``variance`` is not in (0, 1).
    """

    positive = False
    reads_logits = False

    moments: Shared[Moments]

    def __init__(self, variance: float = 0.9) -> None:
        super().__init__()
        if not 0 < variance < 1:
            raise InputError(f"variance={variance} is not in (0, 1); write for example 0.9")
        self.variance = variance

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.moments = share(info, Moments, 1, info.num_features, 1.0)

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments."""
        self.moments.update(features.direction, None, normalized_products(features, 1.0))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``center`` and ``residual``, the components that are left out; float32."""
        share, means, second = self.moments.statistic.statistics()
        self._require_images(share)
        center = means[0]
        values, vectors = torch.linalg.eigh(second - torch.outer(center, center))  # ascending
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        explained = values.cumsum(0) / values.sum().clamp(min=1e-300)
        count = min(int((explained < self.variance).sum()) + 1, len(center) - 1)
        return {"center": center.float(), "residual": vectors[:, count:].float().contiguous()}

    def mapped(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the rows that are reconstructed."""
        return features.direction

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        return -((self.mapped(features, fitted) - fitted["center"]) @ fitted["residual"]).norm(dim=1)

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a residual of few images."""
        found = spectrum_doubts(seen.images, len(fitted["residual"]), "its residual space")
        return [*super().doubts(fitted, seen), *found]

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the number of components."""
        width, outside = fitted["residual"].shape
        return {"components": width - outside}


class CoRP(CoP):
    """CoP of random Fourier features of the direction, which stand for a Gaussian kernel (section 4.2).

    ``y = sqrt(2 / M) cos(V z / |z| + u)`` of M numbers, V normal with variance 2 gamma, u uniform in [0, 2 pi); both
    are drawn from ``seed`` and stored in the fit.

    Fits on all training images. State: M**2 + M + 1 float64 (134 MB at M = 4096); fitted: that of CoP with M for D,
    ``projection`` [M, D] and ``phase`` [M]. Scoring costs M (D + M) multiplications per image.

    Deviation: M is 4 D, at most 4096, where it is not given; the authors take 2048 for a ResNet-18 (D = 512) and 4096
    for a ResNet-50 (D = 2048).

    Args:
        variance: share of the variance that the components explain. The authors: 0.8 and 0.5.
        gamma: of the kernel ``exp(-gamma |a - b|^2)``. The authors: 2 for a CIFAR-10 ResNet-18, 3 for a ResNet-50.
        size: M.
        seed: seed of the random features.

    Raises:
        InputError: if ``variance`` is not in (0, 1), ``gamma`` not positive or ``size`` below 2.
    """

    projection: Tensor
    phase: Tensor

    def __init__(self, variance: float = 0.8, gamma: float = 2.0, size: int | None = None, seed: int = 0) -> None:
        super().__init__(variance)
        check_positive("gamma", gamma)
        check_at_least("size", 2 if size is None else size, 2)
        self.gamma, self.size, self.seed = gamma, size, seed

    def setup(self, info: NetworkInfo) -> None:
        """Draws the random features and declares the sums."""
        super().setup(info)
        width = info.num_features
        size = self.size or max(min(4 * width, 4096), 2)
        draw = torch.Generator().manual_seed(self.seed)
        projection = math.sqrt(2 * self.gamma) * torch.randn(size, width, generator=draw)
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("phase", 2 * math.pi * torch.rand(size, generator=draw), persistent=False)
        self.moments = share(info, Moments, 1, size, ("random features", self.gamma, self.seed))

    def update(self, features: Features) -> None:
        """Adds a batch to the second moments."""
        self.moments.update(self._random_features(features, self.projection, self.phase))

    def compute(self) -> dict[str, Tensor]:
        """Computes what CoP does, with the random features."""
        return {**super().compute(), "projection": self.projection, "phase": self.phase}

    def mapped(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the random features ``[B, M]``."""
        return self._random_features(features, fitted["projection"], fitted["phase"])

    def _random_features(self, features: Features, projection: Tensor, phase: Tensor) -> Tensor:
        name = ("random features", self.gamma, self.seed, len(phase))

        def compute() -> Tensor:
            return math.sqrt(2 / len(phase)) * (features.direction @ projection.T + phase).cos()

        return features.cached(name, features.direction, compute)
