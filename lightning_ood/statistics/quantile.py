"""Any quantile of a stream of numbers, from a histogram of fixed size."""

import torch
from torch import Tensor

from lightning_ood.statistics.base import Statistic, own

_MANTISSA_BITS = 11  # of float32's 23: a bin is 2**-11 = 0.05 % wide
_SHIFT = 23 - _MANTISSA_BITS
_BINS = 2 ** (31 - _SHIFT)  # for one sign


class QuantileSketch(Statistic):
    """Any quantile of a stream of numbers, to 0.05 % of its value.

    A histogram over float32 bit patterns: sign, exponent and the first 11 bits of the mantissa name the bin, so the
    bins are relative (0.05 % wide) from the smallest normal number to the largest, and no range has to be known.
    Integer counts: the result does not depend on order, batches or processes. State: 8 MiB.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2 * _BINS, dtype=torch.int64), "sum")

    def update(self, values: Tensor) -> None:
        """Counts every entry of ``values`` (any shape, finite)."""
        bits = values.detach().float().contiguous().flatten().view(torch.int32) & 0x7FFFFFFF
        magnitude = (bits >> _SHIFT).to(torch.int64)
        negative = values.flatten() < 0
        bin_index = torch.where(negative, _BINS - 1 - magnitude, _BINS + magnitude)
        self.counts = count(own(self.counts), bin_index)

    def compute(self) -> Tensor:
        """The counts over all processes, for :func:`quantile`."""
        return self.counts


def count(counts: Tensor, bins: Tensor) -> Tensor:
    """Adds 1 to the entries ``bins`` of ``counts``, both flat int64, in place; the device is not waited for."""
    return counts.scatter_add_(0, bins, counts.new_ones(1).expand_as(bins))


def quantile(counts: Tensor, q: float | Tensor) -> Tensor:
    """Quantiles from a sketch's counts, interpolated linearly between order statistics and inside a bin.

    Args:
        counts: ``[2 * bins]``, what ``QuantileSketch.compute`` gave.
        q: one or more quantiles in [0, 1], as a number or a tensor.

    Returns:
        float64, of the shape of ``q``; NaN where nothing was counted.
    """
    filled = counts.nonzero().flatten()  # quantiles need only the bins that hold something
    q = torch.as_tensor(q, dtype=torch.float64, device=counts.device)
    if filled.numel() == 0:
        return torch.full_like(q, torch.nan)
    held = counts[filled].double()
    total = held.cumsum(0)
    rank = q * (total[-1] - 1)

    def order_statistic(i: Tensor) -> Tensor:
        at = torch.searchsorted(total, i, right=True).clamp(max=len(filled) - 1)
        low, high = _edges(filled[at])
        return low + (high - low) * ((i - (total[at] - held[at]) + 0.5) / held[at]).clamp(0, 1)

    below, above = order_statistic(rank.floor()), order_statistic(rank.ceil())
    return below + (above - below) * (rank - rank.floor())


def _edges(bin_index: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper end of bins, float64."""
    negative = bin_index < _BINS
    magnitude = torch.where(negative, _BINS - 1 - bin_index, bin_index - _BINS)
    small = (magnitude << _SHIFT).to(torch.int32).view(torch.float32).double()
    top = ((magnitude + 1).clamp(max=_BINS // 256 * 255 - 1) << _SHIFT).to(torch.int32).view(torch.float32).double()
    return torch.where(negative, -top, small), torch.where(negative, -small, top)
