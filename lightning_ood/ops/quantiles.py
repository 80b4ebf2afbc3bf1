"""Exact percentiles of tensors that fit in memory."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE = 8192  # entries that are sorted to guess where an order statistic lies


def percentile(values: Tensor, q: float) -> Tensor:
    """Computes the q-th percentile of all entries, interpolated linearly as ``numpy.percentile`` does.

    Selects on the CPU and sorts elsewhere; ``torch.quantile`` refuses large tensors in some versions.

    Args:
        values: any shape, not empty.
        q: in [0, 100].

    Returns:
        float64 scalar on the device of ``values``.
    """
    flat = values.detach().flatten()
    if flat.device.type != "cpu":
        return percentile_of_sorted(flat.sort().values, q, torch.float64)
    low, high, weight = _position(len(flat), q)
    below, above = _select(flat.numpy(), low, high)
    return torch.tensor(below + (above - below) * weight, dtype=torch.float64)


def percentile_of_sorted(ordered: Tensor, q: float, dtype: torch.dtype | None = None) -> Tensor:
    """Computes the q-th percentile along the first dimension of values that are sorted along it.

    Args:
        ordered: ``[N, ...]``, ascending along the first dimension, not empty.
        q: in [0, 100].
        dtype: precision of the interpolation; that of ``ordered`` where None.

    Returns:
        ``[...]``.
    """
    low, high, weight = _position(len(ordered), q)
    below, above = ordered[low].to(dtype or ordered.dtype), ordered[high].to(dtype or ordered.dtype)
    return below + (above - below) * weight


def percentile_curves(rows: Tensor, at: Tensor | None = None) -> dict[str, list[float]]:
    """Summarises many curves for a plot: their 10th, 50th and 90th percentile at each position.

    Args:
        rows: ``[R, D]``, one curve per row.
        at: ``[D]`` positions, or ``[D + 1]`` bin edges; where None the positions are the ranks 1 to D, of which about
            200 are kept, denser at the start.

    Returns:
        ``at``, ``low``, ``middle`` and ``high`` as lists of floats.
    """
    if at is None:
        last = rows.shape[1]
        at = torch.logspace(0, math.log10(last), 200, dtype=torch.float64).round().long().clamp(1, last).unique()
        rows = rows[:, at.to(rows.device) - 1]  # [R, number of ranks]
    low, middle, high = np.quantile(rows.detach().double().cpu().numpy(), [0.1, 0.5, 0.9], axis=0).tolist()
    return {"at": at.double().tolist(), "low": low, "middle": middle, "high": high}


def _position(n: int, q: float) -> tuple[int, int, float]:
    """Indices of the two order statistics around the q-th percentile of ``n`` values, and the weight of the second."""
    rank = q / 100 * (n - 1)
    low = math.floor(rank)
    return low, math.ceil(rank), rank - low


def _select(values: NDArray[np.floating], low: int, high: int) -> tuple[float, float]:
    """Order statistics at the ranks ``low`` and ``high = low`` or ``low + 1``, as a whole sort would give them.

    A sorted sample brackets them, and only what lies in the bracket is partitioned (Floyd and Rivest, 1975): a fifth of
    the time of a partition of a million values. Where the bracket misses a rank, all are partitioned.
    """
    sample = np.sort(values[:: max(1, len(values) // SAMPLE) | 1])
    middle, spread = low / len(values) * len(sample), 2 * math.sqrt(len(sample))  # four standard deviations
    smallest = sample[max(0, math.floor(middle - spread))]
    largest = sample[min(len(sample) - 1, math.ceil(middle + spread))]
    smaller = int(np.count_nonzero(values < smallest))
    inside = values[(values >= smallest) & (values <= largest)]
    if not smaller <= low <= high < smaller + len(inside):
        smaller, inside = 0, values
    first, last = low - smaller, high - smaller
    ordered = np.partition(inside, sorted({first, last}))
    return float(ordered[first]), float(ordered[last])
