"""Approximate quantiles of a stream of numbers, from a histogram of fixed size."""

import torch
from torch import Tensor

from lightning_ood.statistics.base import Statistic, own

_MANTISSA_BITS = 11  # of float32's 23: a bin is 2**-11 = 0.05 % wide
_SHIFT = 23 - _MANTISSA_BITS
_BINS = 2 ** (31 - _SHIFT)  # number of bins for one sign
SIZE = 2 * _BINS  # number of bins


class QuantileSketch(Statistic):
    """Streaming sketch that gives any quantile with a relative error of at most 0.05 %.

    It is a histogram over float32 bit patterns: sign, exponent and the first 11 bits of the mantissa give the bin. Bins
    are therefore 0.05 % wide relative to their value, from the smallest normal number to the largest, and no range has
    to be set. Counts are integers, so the result does not depend on order, batches or processes. State: 8 MiB.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2 * _BINS, dtype=torch.int64), "sum")

    def update(self, values: Tensor) -> None:
        """Counts every entry of ``values`` (any shape, finite)."""
        self.counts = count(own(self.counts), bin_of(values))

    def compute(self) -> Tensor:
        """Returns the counts ``[2 * bins]`` over all processes, for :func:`quantile`."""
        return self.counts


class WeightedSketch(Statistic):
    """Sums of weights over the bins of a :class:`QuantileSketch`: how much the entries of any range add up to.

    Ranges are exact to the width of a bin, 0.05 % of the value. State: 8 MiB, float64.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2 * _BINS, dtype=torch.float64), "sum")

    def update(self, values: Tensor, weights: Tensor) -> None:
        """Adds each of ``weights`` to the bin of its entry of ``values`` (of the same shape, finite)."""
        self.sums = own(self.sums).scatter_add_(0, bin_of(values), weights.double().flatten())

    def compute(self) -> Tensor:
        """Returns the sums ``[2 * bins]`` over all processes."""
        return self.sums


def bin_of(values: Tensor) -> Tensor:
    """Returns the bin ``[entries]`` of every entry of ``values`` (any shape, finite), ascending with the value."""
    bits = values.detach().float().contiguous().flatten().view(torch.int32) & 0x7FFFFFFF  # [entries], no sign bit
    magnitude = (bits >> _SHIFT).to(torch.int64)  # [entries] in [0, _BINS)
    return torch.where(values.flatten() < 0, _BINS - 1 - magnitude, _BINS + magnitude)


def occupied(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the middle and the sum ``[F]`` of each bin of a :class:`WeightedSketch` whose sum is not 0, float64."""
    filled = sums.nonzero().flatten()
    low, high = edges(filled)
    return (low + high) / 2, sums[filled]


def count(counts: Tensor, bins: Tensor) -> Tensor:
    """Adds 1 to the entries ``bins`` of ``counts`` (both 1-d int64), in place and without waiting for the device."""
    return counts.scatter_add_(0, bins, counts.new_ones(1).expand_as(bins))


def quantile(counts: Tensor, q: float | Tensor) -> Tensor:
    """Computes quantiles from the counts of a sketch, interpolated between order statistics and inside a bin.

    Args:
        counts: ``[2 * bins]``, from ``QuantileSketch.compute``.
        q: one or more quantiles in [0, 1], as a number or a tensor.

    Returns:
        float64 of the shape of ``q``; NaN if nothing was counted.
    """
    filled = counts.nonzero().flatten()  # [F], the bins that are not empty
    q = torch.as_tensor(q, dtype=torch.float64, device=counts.device)
    if filled.numel() == 0:
        return torch.full_like(q, torch.nan)
    in_bin = counts[filled].double()  # [F]
    total = in_bin.cumsum(0)  # [F], entries up to and including each bin
    rank = q * (total[-1] - 1)  # shape of q

    def order_statistic(i: Tensor) -> Tensor:
        """Estimates the i-th smallest entry; entries are spread evenly over their bin."""
        position = torch.searchsorted(total, i, right=True).clamp(max=len(filled) - 1)
        low, high = edges(filled[position])
        within = (i - (total[position] - in_bin[position]) + 0.5) / in_bin[position]
        return low + (high - low) * within.clamp(0, 1)

    below, above = order_statistic(rank.floor()), order_statistic(rank.ceil())
    return below + (above - below) * (rank - rank.floor())


def edges(bin_index: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the lower and upper edge of bins, float64 of the shape of ``bin_index``."""
    negative = bin_index < _BINS
    magnitude = torch.where(negative, _BINS - 1 - bin_index, bin_index - _BINS)
    small = (magnitude << _SHIFT).to(torch.int32).view(torch.float32).double()
    # Clamped below the bit pattern of infinity.
    top = ((magnitude + 1).clamp(max=_BINS // 256 * 255 - 1) << _SHIFT).to(torch.int32).view(torch.float32).double()
    return torch.where(negative, -top, small), torch.where(negative, -small, top)
