"""Pseudo-random numbers per image, independent of processes, batches and order."""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shifts int64 right logically (``>>`` keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Applies one step of SplitMix64, a bijection of int64."""
    x = (x + 1) * _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def hash_index(index: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Hashes image indices to uniform non-negative int64 (with the finaliser of SplitMix64).

    The hash is the same on every device and number of processes. A sample drawn by the smallest hashes, or a
    permutation drawn by sorting them, therefore depends on the seed and the image alone.

    Args:
        index: image indices, int64, any shape.
        seed: the seed of the experiment.
        stream: number of the draw, for several independent draws with one seed.

    Returns:
        int64 in ``[0, 2**63)``, of the shape of ``index``.
    """
    # Seed, stream and index are mixed one after the other: with seed + index, seed 1 would hash image i as seed 0
    # hashes image i + 1.
    offset = int(_mix(_mix(torch.tensor(seed, dtype=torch.int64)) + stream))
    return _shift(_mix(index.to(torch.int64) + offset), 1)
