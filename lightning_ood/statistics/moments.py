"""Class means and second moments of a stream of features: all that Gaussian and subspace detectors keep."""

import torch
from torch import Tensor

from lightning_ood.statistics.base import Statistic


class Mean(Statistic):
    """The sum of the penultimate features and their number. State: D + 1 float64.

    Args:
        width: D.
    """

    sums: Tensor
    images: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(width, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, rows: Tensor) -> None:
        """Adds rows ``[B, D]``."""
        self.sums = self.sums + rows.sum(0, dtype=torch.float64)
        self.images = self.images + len(rows)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The sum ``[D]`` and the number of images, over all processes; float64."""
        return self.sums.reshape(-1), self.images


class Moments(Statistic):
    """Sums over rows, in float64, from one pass: ``n_k``, ``sum_k z`` and ``sum z z^T``.

    Covariances follow by subtraction. In float64 that costs no digit that the float32 features have.
    State: ``K + K * D + D**2`` float64; 50 MB at K = 1000, D = 2048.

    Args:
        groups: K; 1 where classes do not matter.
        width: D.
    """

    count: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros(groups, dtype=torch.float64), "sum")
        self.add_state("sums", torch.zeros(groups, width, dtype=torch.float64), "sum")
        self.add_state("products", torch.zeros(width, width, dtype=torch.float64), "sum")

    def update(self, rows: Tensor, groups: Tensor | None = None, products: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            rows: ``[B, D]``.
            groups: ``[B]``; all rows belong to the first where None.
            products: ``rows.T @ rows`` in float64, where it is known: ``Features.products``.
        """
        rows = rows.double()
        if groups is None:
            groups = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self.count = self.count.index_add(0, groups, rows.new_ones(len(rows)))
        self.sums = self.sums.index_add(0, groups, rows)
        self.products = self.products + (rows.T @ rows if products is None else products)

    def compute(self) -> dict[str, Tensor]:
        """The sums over all processes."""
        return {"count": self.count, "sums": self.sums, "products": self.products}

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the sums of all processes amount to, float64.

        Returns:
            the share of each group ``[K]``, its mean ``[K, D]`` (zero where it is empty), and the mean of
            ``z z^T`` over all rows ``[D, D]``.
        """
        sums = self.compute()
        # torchmetrics squeezes one-element tensors, hence the shapes.
        count = sums["count"].reshape(self.count.shape)
        rows = count.sum().clamp(min=1)
        means = sums["sums"].reshape(self.sums.shape) / count.clamp(min=1)[:, None]
        return count / rows, means, sums["products"].reshape(self.products.shape) / rows


def whitening(covariance: Tensor, second: Tensor) -> Tensor:
    """A factor of the pseudo-inverse: ``pinv(covariance) = W W^T``.

    Directions without variance (dead or dependent units, fewer images than units) get weight zero: those whose
    eigenvalue is below the rounding of float32 features, ``1e-14 * D`` of the largest second moment of a unit.

    Args:
        covariance: ``[D, D]`` float64.
        second: ``[D, D]`` mean of ``z z^T``; its diagonal tells how large the features are.

    Returns:
        W ``[D, D]``.
    """
    values, vectors = torch.linalg.eigh(covariance)
    floor = 1e-14 * len(covariance) * second.diagonal().amax()
    alive = values > floor
    scale = torch.where(alive, values, 1).rsqrt() * alive
    return vectors * scale
