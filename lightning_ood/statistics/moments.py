"""Class means and second moments of a stream of features, for Gaussian and subspace detectors."""

from collections.abc import Hashable
from typing import Literal

import torch
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.statistics.base import Statistic

Shrinkage = float | Literal["oas"] | None


class Mean(Statistic):
    """Sum and number of penultimate features. State: D + 1 float64.

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
        """Returns the sum ``[D]`` and the number of images over all processes, float64."""
        return self.sums.reshape(-1), self.images


class Moments(Statistic):
    """Sums over rows in float64, from one pass: ``n_k``, ``sum_k z`` and ``sum z z^T``.

    Covariances are differences of these sums. In float64 the subtraction keeps all digits of the float32 features.
    State: ``K + K * D + D**2`` float64; 50 MB at K = 1000, D = 2048.

    Args:
        groups: K; 1 if classes are not distinguished.
        width: D.
        rows: names what the rows are (0.0: the raw feature; another number: the exponent of its normalisation), so that
            only detectors of the same rows share a statistic.
    """

    count: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, groups: int, width: int, rows: Hashable = 0.0) -> None:
        super().__init__()
        self.name_of_rows = rows
        self.add_state("count", torch.zeros(groups, dtype=torch.float64), "sum")
        self.add_state("sums", torch.zeros(groups, width, dtype=torch.float64), "sum")
        self.add_state("products", torch.zeros(width, width, dtype=torch.float64), "sum")

    def update(self, rows: Tensor, groups: Tensor | None = None, products: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            rows: ``[B, D]``.
            groups: ``[B]`` int64, the group of each row; the first for all rows where None.
            products: ``rows.T @ rows`` ``[D, D]`` in float64, if already computed (``Features.products``).
        """
        rows = rows.double()
        if groups is None:
            groups = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self.count = self.count.index_add(0, groups, rows.new_ones(len(rows)))
        self.sums = self.sums.index_add(0, groups, rows)
        self.products = self.products + (rows.T @ rows if products is None else products)

    def compute(self) -> dict[str, Tensor]:
        """Returns the sums over all processes."""
        return {"count": self.count, "sums": self.sums, "products": self.products}

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Computes shares, means and the second moment over all processes, float64.

        Returns:
            share of the rows in each group ``[K]``, mean of each group ``[K, D]`` (zero for an empty group), and mean
            of ``z z^T`` over all rows ``[D, D]``.
        """
        sums = self.compute()
        # torchmetrics squeezes one-element tensors, hence the reshapes.
        count = sums["count"].reshape(self.count.shape)
        rows = count.sum().clamp(min=1)
        means = sums["sums"].reshape(self.sums.shape) / count.clamp(min=1)[:, None]
        return count / rows, means, sums["products"].reshape(self.products.shape) / rows


def shrunk(covariance: Tensor, shrinkage: Shrinkage, images: Tensor, means: Tensor | int) -> Tensor:
    """Shrinks a covariance S towards ``trace(S) / D * I``, which gives it full rank: ``(1 - r) S + r trace(S) / D I``.

    ``oas`` computes r from the data: Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation",
    IEEE Transactions on Signal Processing 2010, eq. 23. It needs the traces of S and of S^2 and the number n of
    independent rows alone.

    Args:
        covariance: ``[D, D]`` float64.
        shrinkage: r in (0, 1], ``oas``, or None, which returns S itself.
        images: number of rows in S.
        means: number of means that were subtracted; n is ``images - means``, at least 1.
    """
    if shrinkage is None:
        return covariance
    width = len(covariance)
    trace, square = covariance.trace(), covariance.square().sum()  # the trace of S, of S^2
    if shrinkage == "oas":
        n = (images - means).clamp(min=1)
        spread = (n + 1 - 2 / width) * (square - trace**2 / width)
        share = ((1 - 2 / width) * square + trace**2) / spread
        share = torch.where(spread > 0, share, 1).clamp(max=1)
    else:
        share = covariance.new_tensor(shrinkage)
    return (1 - share) * covariance + share * trace / width * torch.eye(width, dtype=trace.dtype, device=trace.device)


def check_shrinkage(shrinkage: Shrinkage) -> None:
    """Checks an argument ``shrinkage``.

    Raises:
        InputError: if it is neither None, ``oas`` nor in (0, 1].
    """
    if shrinkage not in (None, "oas") and not (not isinstance(shrinkage, str) and 0 < shrinkage <= 1):
        raise InputError(
            f"shrinkage={shrinkage} is no share of the identity: write oas, or a number above 0, at most 1"
        )


def whitening(covariance: Tensor, second: Tensor) -> Tensor:
    """Factorises the pseudo-inverse of a covariance: ``pinv(covariance) = W W^T``.

    Directions without variance (dead or dependent units, fewer images than units) get weight zero. These are the
    directions whose eigenvalue is below the rounding of float32 features: ``1e-14 * D`` times the largest second
    moment of a unit.

    Args:
        covariance: ``[D, D]`` float64.
        second: ``[D, D]`` mean of ``z z^T``; its diagonal gives the scale of the features.

    Returns:
        W ``[D, D]``.
    """
    values, vectors = torch.linalg.eigh(covariance)  # [D], [D, D] with eigenvectors as columns
    floor = 1e-14 * len(covariance) * second.diagonal().amax()
    alive = values > floor
    scale = torch.where(alive, values, 1).rsqrt() * alive  # [D]
    return vectors * scale
