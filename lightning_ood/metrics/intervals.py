"""95 % confidence intervals of AUROC and FPR95, for one OOD set or the mean over sets that share the ID images.

The intervals account for the sampling of the test images, ID and OOD; the network and the fitted detectors are fixed.
``lightning_ood.metrics.paired`` compares detectors that scored the same images.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_ood.metrics.rates import Comparison, rank_95

LEVEL = 0.95
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal
_DRAWS = 10_000


def auroc_interval(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Computes the Wald interval of the mean AUROC over OOD sets, with DeLong's variance, clipped to [0, 1].

    Elizabeth DeLong, David DeLong, Daniel Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44, 1988; in the O(n log n) form of Sun and Xu, 2014. Each ID
    image is compared with every set, so its placements are averaged over the S sets before the variance is taken::

        var = var_i(mean_s V10[s, i]) / n  +  1 / S^2  sum_s var_j(V01[s, j]) / m_s

    An AUROC of exactly 0 or 1 gets an interval of length zero, which is too short. One image has no variance: with one
    ID image, or one image in an OOD set, the interval is [0, 1].

    Args:
        comparisons: one per OOD set, all with the same ID scores.
    """
    if min(len(comparisons[0].id), *(len(c.ood) for c in comparisons)) < 2:
        return 0.0, 1.0
    id_placements = np.mean([c.id_placements for c in comparisons], axis=0)
    mean, deviation = delong(id_placements, [c.ood_placements for c in comparisons])
    return max(mean - Z * deviation, 0.0), min(mean + Z * deviation, 1.0)


def delong(id_placements: NDArray[np.float64], ood_placements: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Computes the mean AUROC over S sets and its standard deviation, from placements or differences of placements.

    Args:
        id_placements: ``[n]``, mean over the sets.
        ood_placements: ``[m_s]`` of each set.
    """
    variance = id_placements.var(ddof=1) / len(id_placements)
    variance += sum(part.var(ddof=1) / len(part) for part in ood_placements) / len(ood_placements) ** 2
    return float(id_placements.mean()), float(np.sqrt(variance))


def fpr95_draws(comparison: Comparison, name: str = "", seed: int = 0) -> NDArray[np.float64]:
    """Draws bootstrap replicates of FPR95 (ID positive) without resampling images.

    The threshold is an order statistic of the ID scores. In a bootstrap resample its index among the sorted ID scores
    is ``floor(n U)`` with U ~ Beta(r, n - r + 1), r its rank: one draw instead of n. Given the threshold, the share of
    accepted OOD images is drawn from the Jeffreys posterior Beta(c + 1/2, m - c + 1/2) for c accepted images of m;
    unlike the bootstrap's binomial, its variance is not zero where c is 0 or m.

    With fewer than about 40 ID images the threshold is their smallest score and the interval is too short.

    Args:
        comparison: ID against OOD scores.
        name: name of the OOD set, which seeds the draws of its share. The draws of the threshold depend on n and the
            seed alone, so averaging the draws of several sets resamples their shared ID images once.
        seed: seed of the draws.

    Returns:
        ``[10000]`` float64.
    """
    n, m = len(comparison.id), len(comparison.ood)
    rank = rank_95(n)
    position = np.floor(n * np.random.default_rng(seed).beta(rank, n - rank + 1, _DRAWS)).astype(np.int64)
    thresholds = comparison.id[np.minimum(position, n - 1)]
    accepted = m - np.searchsorted(comparison.ood, thresholds, side="left")
    set_rng = np.random.default_rng([seed, zlib.crc32(name.encode()) + 1])
    return set_rng.beta(accepted + 0.5, m - accepted + 0.5)


def fpr95_interval(draws: NDArray[np.float64], estimate: float) -> tuple[float, float]:
    """Returns the central 95 % of the draws, extended to contain the estimate.

    Args:
        draws: result of :func:`fpr95_draws`, or its mean over the sets of a group.
        estimate: FPR95, or its mean over the sets.
    """
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), estimate), max(float(high), estimate)
