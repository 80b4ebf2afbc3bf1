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
