"""95 % confidence intervals of AUROC and FPR95, for one OOD set or the mean over sets that share the ID images.

The intervals account for the sampling of the test images, ID and OOD; the network and the fitted detectors are fixed.
``lightning_ood.metrics.paired`` compares detectors that scored the same images.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # scipy.stats takes a second to import

from lightning_ood.metrics.rates import Comparison

LEVEL = 0.95
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal
_DRAWS = 10_000
_EXTRA = 3  # observations at the upper bound; 2 cover 93 % in the worst cases, 4 widen all


def auroc_interval(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Computes the interval of the mean AUROC over OOD sets, with DeLong's variance, in [0, 1].

    Elizabeth DeLong, David DeLong, Daniel Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44, 1988; in the O(n log n) form of Sun and Xu, 2014. Each ID
    image is compared with every set, so its placements are averaged over the S sets before the variance is taken::

        var = var_i(mean_s V10[s, i]) / n  +  1 / S^2  sum_s var_j(V01[s, j]) / m_s

    A Wald interval from this variance is too short near 0 and 1, where few images overlap: it covers a true AUROC of
    0.998 in 75 % of samples of 100 images a side. So each of the S + 1 variances counts as many observations as images
    overlap, and three more at its largest possible value (:func:`_steady_variance`). An AUROC ``a`` whose variance is
    ``a (1 - a) / N`` is then as certain as a share of N independent images, and the ends are the 2.5 % and 97.5 %
    quantiles of Beta(N a + 1/2, N (1 - a) + 1/2), as for such a share. N is at least the smaller number of images.
    ``experiments/intervals`` measures the coverage.

    One image has no variance: with one ID image, or one image in an OOD set, the interval is [0, 1].

    Args:
        comparisons: one per OOD set, all with the same ID scores.
    """
    sizes = np.array([len(c.ood) for c in comparisons])
    n = len(comparisons[0].id)
    if min(n, *sizes) < 2:
        return 0.0, 1.0
    id_placements = np.mean([c.id_placements for c in comparisons], axis=0)
    mean = float(id_placements.mean())
    variance = _steady_variance(id_placements) / n
    variance += sum(_steady_variance(c.ood_placements) / len(c.ood) for c in comparisons) / len(sizes) ** 2
    fewest = 1 / max(1 / n, (1 / sizes).sum() / len(sizes) ** 2)
    size = max(mean * (1 - mean) / variance, fewest) if variance else fewest
    low, high = betaincinv(size * mean + 0.5, size * (1 - mean) + 0.5, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (min(float(low), mean) if mean > 0 else 0.0), (max(float(high), mean) if mean < 1 else 1.0)


def _steady_variance(placements: NDArray[np.float64]) -> float:
    """Computes the variance of placements, drawn towards its upper bound where few images overlap.

    The overlap of an image is one minus its placement (below a mean of 1/2 the placement). If all overlap is that of k
    images alike, ``sum(overlap)^2 / sum(overlap^2)`` is k. A variance of so few values is uncertain and, more often
    than not, too small; its upper bound is ``mean (1 - mean)``, that of placements of 0 and 1.
    """
    mean = float(placements.mean())
    overlap = placements if mean < 0.5 else 1 - placements
    squares = float(overlap @ overlap)
    images = float(overlap.sum()) ** 2 / squares if squares else 0.0
    return (images * float(placements.var(ddof=1)) + _EXTRA * mean * (1 - mean)) / (images + _EXTRA)


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
    """Draws plausible values of FPR95 (ID positive) without resampling images.

    Of n ID images, K ~ Binomial(n, 0.05) lie below the true 5 % quantile, so this threshold lies between the K-th and
    the (K+1)-th smallest ID score, and the number c of accepted OOD images between their numbers: each draw takes a K
    and a uniform point between the two. The share is then drawn from the Jeffreys posterior Beta(c + 1/2, m - c + 1/2)
    for m OOD images; unlike the bootstrap's binomial, its variance is not zero where c is 0 or m.

    With K = 0, in over 2.5 % of the draws below 72 ID images, nothing bounds the threshold from below. It is taken to
    lie at most four ID images away: c grows by no more than twice its growth from the third smallest ID score to the
    smallest.

    Args:
        comparison: ID against OOD scores.
        name: name of the OOD set, which seeds the draws of its share. The draws of the threshold depend on n and the
            seed alone, so averaging the draws of several sets resamples their shared ID images once.
        seed: seed of the draws.

    Returns:
        ``[10000]`` float64.
    """
    n, m = len(comparison.id), len(comparison.ood)
    rng = np.random.default_rng(seed)
    below, between = rng.binomial(n, 0.05, _DRAWS), rng.random(_DRAWS)
    accepted = np.concatenate([[m], m - np.searchsorted(comparison.ood, comparison.id, side="left"), [0]])
    accepted[0] = min(m, accepted[1] + 2 * (accepted[1] - accepted[min(3, n)]))
    count = accepted[below + 1] + between * (accepted[below] - accepted[below + 1])
    set_rng = np.random.default_rng([seed, zlib.crc32(name.encode()) + 1])
    return set_rng.beta(count + 0.5, m - count + 0.5)


def fpr95_interval(draws: NDArray[np.float64], estimate: float) -> tuple[float, float]:
    """Returns the central 95 % of the draws, extended to contain the estimate.

    Args:
        draws: result of :func:`fpr95_draws`, or its mean over the sets of a group.
        estimate: FPR95, or its mean over the sets.
    """
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), estimate), max(float(high), estimate)
