"""Pseudo-random numbers that belong to an image, not to a process, a batch or an order."""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (``>>`` keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """One step of SplitMix64: a bijection of int64."""
    x = (x + 1) * _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def hash_index(index: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Mixes image indices into uniform non-negative int64 (the finaliser of SplitMix64).

    The same on every device and number of processes, so that a sample drawn by the smallest hashes, or a
    permutation drawn by sorting them, depends on the seed and the image alone.

    Args:
        index: image indices, int64, any shape.
        seed: the seed of the experiment.
        stream: separates independent draws made with one seed.

    Returns:
        int64 in ``[0, 2**63)``, of the shape of ``index``.
    """
    # A word a time: were seed and index added up, the next seed would give the sample of the next image.
    offset = int(_mix(_mix(torch.tensor(seed, dtype=torch.int64)) + stream))
    return _shift(_mix(index.to(torch.int64) + offset), 1)
