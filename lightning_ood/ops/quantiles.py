"""Exact percentiles of tensors that are held whole."""

import math

import numpy as np
import torch
from torch import Tensor


def percentile(values: Tensor, q: float) -> Tensor:
    """The q-th percentile of all entries, interpolated linearly between the two nearest, as ``numpy.percentile``.

    ``torch.quantile`` refuses large tensors in some versions. Selection on the CPU, a sort elsewhere.

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
    """What a report draws of many curves: their 10th, 50th and 90th percentile at each place.

    Args:
        rows: ``[R, D]``, a curve each.
        at: where the values lie, or the D + 1 edges of what they belong to; the ranks 1 to D where None, of which some
            200 are taken, denser at the start.

    Returns:
        ``at``, ``low``, ``middle`` and ``high``, plain numbers.
    """
    if at is None:
        last = rows.shape[1]
        at = torch.logspace(0, math.log10(last), 200, dtype=torch.float64).round().long().clamp(1, last).unique()
        rows = rows[:, at.to(rows.device) - 1]
    low, middle, high = np.quantile(rows.detach().double().cpu().numpy(), [0.1, 0.5, 0.9], axis=0).tolist()
    return {"at": at.double().tolist(), "low": low, "middle": middle, "high": high}
