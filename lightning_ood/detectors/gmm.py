"""A Gaussian mixture of the penultimate feature, as in OpenOOD v1: Yang et al., NeurIPS 2022.

https://arxiv.org/abs/2210.07242
"""

import math

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.calibration import bounded
from lightning_ood.detectors.normalization import check_power, normalized
from lightning_ood.detectors.ranges import check_at_least, check_positive
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.moments import whitening
from lightning_ood.statistics.sample import Sample


class GMM(Detector):
    """Log-density of the feature under a mixture of Gaussians with one covariance, fitted without labels.

    ``log sum_c w_c exp(-d_c / 2)``, ``d_c = (z - mu_c)^T S^-1 (z - mu_c)``, after a projection of z on its first
    principal components. Weights, means and the common covariance S are found by expectation-maximisation from a
    k-means++ start. Any sign (the constant of the density is left out).

    Fits on a uniform sample of ``rows`` training images, which the iterations read again; no labels. State:
    ``rows * (D + 1)`` numbers (82 MB at D = 2048); fitted: ``center`` [D], ``whitening`` [D, q], ``means`` [k, q] and
    ``log_weights`` [k].

    Deviations: OpenOOD keeps all training features in memory. ``power`` is the normalisation of Mahalanobis++; there is
    none in OpenOOD. With ``components`` as the number of classes it is MDS with the classes found from the data.

    Args:
        components: number of Gaussians, k.
        variance: share of the variance that the principal components keep; 1 keeps all that vary.
        power: exponent of the length that the feature is divided by; 0 leaves it as it is.
        iterations: largest number of steps; they stop where the mean log-density grows by less than 1e-4.
        rows: largest number of images in the sample.
        seed: seed of the sample and of the start.

    Raises:
        InputError: if an argument is out of range, or there are fewer images than ``components``.
    """

    positive = False
    reads_logits = False

    def __init__(
        self,
        components: int = 10,
        variance: float = 0.99,
        power: float = 0.0,
        iterations: int = 100,
        rows: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("components", components), ("iterations", iterations), ("rows", rows)):
            check_at_least(name, value, 1)
        check_positive("variance", variance)
        if variance > 1:
            raise InputError(f"variance={variance} is more than all: write a share in (0, 1]")
        check_power(power)
        self.components, self.variance, self.power = components, variance, power
        self.iterations, self.rows, self.seed = iterations, rows, seed

    def setup(self, info: NetworkInfo) -> None:
        """Makes the sample."""
        super().setup(info)
        self.sample = Sample(bounded(self.rows, info), info.num_features, self.seed)

    def update(self, features: Features) -> None:
        """Considers a batch for the sample."""
        self.sample.update(normalized(features, self.power), index_of(features))

    def compute(self) -> dict[str, Tensor]:
        """Computes ``center``, ``whitening``, ``means`` and ``log_weights``, float64."""
        rows = self.sample.draw().double()
        if len(rows) < self.components:
            raise InputError(
                f"GMM: {self.components} components cannot be fitted to {len(rows)} training images; write fewer"
            )
        center = rows.mean(0)
        projection = components_of(rows - center, self.variance)  # [D, q]
        rows = (rows - center) @ projection  # [n, q]
        means = start(rows, self.components, torch.Generator().manual_seed(self.seed))
        weights, means, factor = fit_mixture(rows, means, self.iterations)
        return {
            "center": center,
            "whitening": projection @ factor,
            "means": means @ factor,
            "log_weights": weights.clamp(min=1e-300).log(),
        }

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        white = (normalized(features, self.power).double() - fitted["center"]) @ fitted["whitening"]  # [B, q]
        return (fitted["log_weights"] - distances(white, fitted["means"]) / 2).logsumexp(1).float()

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the number of principal components and the largest weight."""
        return {"components": fitted["whitening"].shape[1], "largest_weight": float(fitted["log_weights"].exp().max())}


def components_of(rows: Tensor, variance: float) -> Tensor:
    """Returns the principal components ``[D, q]`` of centred rows ``[n, D]`` that keep a share of the variance."""
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    explained = values.cumsum(0) / values.sum().clamp(min=1e-300)
    alive = max(int((values > 1e-14 * len(values) * values[0]).sum()), 1)
    return vectors[:, : min(int((explained < variance).sum()) + 1, alive)]


def start(rows: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Chooses ``count`` rows as first means, by k-means++: each with probability of its squared distance to the others.

    Args:
        rows: ``[n, q]``.
        count: k.
        draw: generator on the host.
    """
    first = int(torch.randint(len(rows), (1,), generator=draw))
    chosen, squared = [first], (rows - rows[first]).square().sum(1)
    for _ in range(count - 1):
        share = squared.cumsum(0)
        at = torch.rand(1, generator=draw, dtype=torch.float64).to(rows.device) * share[-1]
        chosen.append(min(int(torch.searchsorted(share, at)), len(rows) - 1))
        squared = torch.minimum(squared, (rows - rows[chosen[-1]]).square().sum(1))
    return rows[chosen]


def fit_mixture(rows: Tensor, means: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fits a mixture with one covariance to rows ``[n, q]``, from first means ``[k, q]``.

    Returns:
        weights ``[k]``, means ``[k, q]`` and W ``[q, q]``, the covariance's inverse being ``W W^T``.
    """
    second = rows.T @ rows / len(rows)
    nearest = torch.cdist(rows, means).argmin(1)
    shares = torch.nn.functional.one_hot(nearest, len(means)).double()  # [n, k]
    last = -math.inf
    for _ in range(iterations):
        count = shares.sum(0)  # [k]
        means = (shares.T @ rows) / count.clamp(min=1e-12)[:, None]
        weights = count / len(rows)
        factor = whitening(second - means.T @ (weights[:, None] * means), second)
        joint = weights.clamp(min=1e-300).log() - distances(rows @ factor, means @ factor) / 2  # [n, k]
        diagonal = factor.square().sum(0)
        volume = diagonal[diagonal > 0].log().sum() / 2  # log |W|, since W has orthogonal columns
        density = float(joint.logsumexp(1).mean() + volume)
        if density < last + 1e-4:
            break
        shares, last = joint.softmax(1), density
    return weights, means, factor


def distances(rows: Tensor, means: Tensor) -> Tensor:
    """Computes squared distances ``[n, k]`` between rows ``[n, q]`` and means ``[k, q]``."""
    return (rows.square().sum(1, keepdim=True) - 2 * rows @ means.T + means.square().sum(1)).clamp(min=0)
