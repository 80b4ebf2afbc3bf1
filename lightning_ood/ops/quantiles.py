"""Exact percentiles of tensors in memory."""

import math

import numpy as np
import torch
from torch import Tensor


def percentile(values: Tensor, q: float) -> Tensor:
    """Computes the q-th percentile of all entries, interpolated linearly, as ``numpy.percentile`` does.

    ``torch.quantile`` refuses large tensors in some versions. Uses selection on the CPU and a sort elsewhere.

    Args:
        values: any shape, not empty.
        q: in [0, 100].

    Returns:
        float64 scalar on the device of ``values``.
    """
    flat = values.detach().flatten()
    rank = q / 100 * (flat.numel() - 1)
    low, high = math.floor(rank), math.ceil(rank)
    if flat.device.type == "cpu":
        ordered = torch.from_numpy(np.partition(flat.numpy(), sorted({low, high})))
    else:
        ordered = flat.sort().values
    below, above = ordered[low].double(), ordered[high].double()
    return below + (above - below) * (rank - low)


def spread(rows: Tensor, at: Tensor | None = None) -> dict[str, list[float]]:
    """Computes the 10th, 50th and 90th percentile of many curves at each position, for a report.

    Args:
        rows: ``[R, D]``, one curve per row.
        at: D positions, or the D + 1 edges of D bins. Where None, about 200 of the ranks 1 to D, denser at the start.

    Returns:
        ``at``, ``low``, ``middle`` and ``high``, lists of numbers.
    """
    if at is None:
        last = rows.shape[1]
        at = torch.logspace(0, math.log10(last), 200, dtype=torch.float64).round().long().clamp(1, last).unique()
        rows = rows[:, at.to(rows.device) - 1]  # [R, number of ranks]
    low, middle, high = np.quantile(rows.detach().double().cpu().numpy(), [0.1, 0.5, 0.9], axis=0).tolist()
    return {"at": at.double().tolist(), "low": low, "middle": middle, "high": high}
