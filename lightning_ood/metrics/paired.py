"""Paired tests between detectors that scored the same images: DeLong's test of AUROC and the paired bootstrap.

The tests account for the sampling of the test images, as in ``lightning_ood.metrics.intervals``; both detectors see the
same resample. Where a detector's value is a mean over repetitions (seeds, checkpoints), these are fixed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr  # scipy.stats takes a second to import

from lightning_ood.metrics.intervals import LEVEL, Z, delong
from lightning_ood.metrics.rates import Comparison, rank_95

Floats = NDArray[np.float64]
_AT_ONCE = 250  # resamples in memory: 50 MB for 50 000 images


@dataclass(frozen=True)
class Difference:
    """Second minus first, as a fraction, with its 95 % interval and two-sided p-value."""

    estimate: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Placements:
    """A detector's placements on one OOD set, in the order of the images, as DeLong's test needs them.

    Attributes:
        id: ``[n]`` share of the OOD images below each ID image, ties counted half.
        ood: ``[m]`` share of the ID images above each OOD image, ties counted half.
    """

    id: Floats
    ood: Floats

    @staticmethod
    def of(id_scores: Sequence[NDArray[Any]], ood_scores: Sequence[NDArray[Any]]) -> Placements:
        """Averages the placements over repetitions of one detector, each with scores ``[n]`` and ``[m]``."""
        ids, oods = [], []
        for id_part, ood_part in zip(id_scores, ood_scores, strict=True):
            both = Comparison(np.sort(id_part), np.sort(ood_part))
            ids.append(both.id_placements[np.searchsorted(both.id, id_part)])
            oods.append(both.ood_placements[np.searchsorted(both.ood, ood_part)])
        return Placements(np.mean(ids, axis=0), np.mean(oods, axis=0))


def auroc_difference(first: Sequence[Placements], second: Sequence[Placements]) -> Difference:
    """Applies DeLong's paired test to the mean AUROC over OOD sets that share the ID images.

    An AUROC is the mean of its placements, so a difference of two is the mean of differences of placements. Its
    variance is computed from them as for one AUROC (``intervals.delong``), which includes the covariances. The p-value
    comes from the normal distribution.

    Args:
        first: placements of the baseline, one per set.
        second: placements of the other detector, for the same images in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    id_differences = np.mean([b.id - a.id for a, b in pairs], axis=0)
    if min(len(id_differences), *(len(a.ood) for a in first)) < 2:
        return Difference(float(id_differences.mean()), -1.0, 1.0, 1.0)
    estimate, deviation = delong(id_differences, [b.ood - a.ood for a, b in pairs])
    return normal_difference(estimate, deviation)


def normal_difference(estimate: float, deviation: float) -> Difference:
    """Computes the interval and p-value of a difference from its standard deviation and the normal distribution."""
    if deviation == 0:
        return Difference(estimate, estimate, estimate, float(estimate == 0))
    p_value = 2 * float(ndtr(-abs(estimate) / deviation))
    return Difference(estimate, estimate - Z * deviation, estimate + Z * deviation, p_value)


def drawn_difference(estimate: float, first: Floats, second: Floats) -> Difference:
    """Computes the percentile interval and p-value of a difference from draws of the paired bootstrap.

    The p-value is twice the smaller of the shares of draws at or below and at or above zero, and at least
    2 / (draws + 1).

    Args:
        estimate: difference on the original images.
        first: ``[draws]`` values of the baseline.
        second: ``[draws]`` values of the other detector on the same resamples.
    """
    draws = second - first
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    fewer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (1 + fewer) / (1 + len(draws)))
    return Difference(estimate, min(float(low), estimate), max(float(high), estimate), p_value)


def bootstrap(
    id_scores: NDArray[Any],
    ood_scores: Mapping[str, NDArray[Any]],
    draws: int = 2000,
    seed: int = 0,
    metric: Literal["fpr95", "auroc"] = "fpr95",
) -> dict[str, Floats]:
    """Resamples ID and OOD images separately with replacement, with the same resamples for every detector.

    Args:
        id_scores: ``[E, n]`` scores of E detectors.
        ood_scores: set -> ``[E, m]`` scores; all sets share the ID resamples.
        draws: number of resamples.
        seed: seed of the draws; the draws of a set depend on its name, not on the other sets.
        metric: FPR95 with ID positive, or AUROC.

    Returns:
        Set -> ``[E, draws]`` metric values, as fractions.
    """
    n = id_scores.shape[1]
    order = id_scores.argsort(axis=1)
    out = {name: np.empty((len(id_scores), draws)) for name in ood_scores}
    streams = {name: resamples(scores.shape[1], draws, seed, name) for name, scores in ood_scores.items()}
    start = 0
    for id_counts in resamples(n, draws, seed):
        block = slice(start, start + len(id_counts))
        start += len(id_counts)
        thresholds = [_thresholds(id_counts, scores, by) for scores, by in zip(id_scores, order, strict=True)]
        for name, all_ood in ood_scores.items():
            ood_counts = next(streams[name])
            for e, (of_id, of_ood) in enumerate(zip(id_scores, all_ood, strict=True)):
                if metric == "fpr95":
                    out[name][e, block] = _accepted(ood_counts, of_ood, thresholds[e]) / len(of_ood)
                else:
                    out[name][e, block] = _resampled_auroc(id_counts, of_id, ood_counts, of_ood)
    return out


def resamples(size: int, draws: int, seed: int, name: str = "") -> Iterator[NDArray[np.float32]]:
    """Yields how often each image is drawn, in blocks ``[<= 250, size]`` of ``draws`` rows that sum to ``size``."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    for start in range(0, draws, _AT_ONCE):
        rows = min(_AT_ONCE, draws - start)
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float32)


def _thresholds(counts: NDArray[np.float32], scores: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """Computes the threshold that keeps 95 % of the ID images in each resample: ``[B, n] -> [B]``."""
    n = len(scores)
    rank = rank_95(n)
    for tail in (min(n, rank + 8 * int(np.sqrt(rank)) + 8), n):  # the tail nearly always suffices
        below = counts[:, order[:tail]].cumsum(axis=1, dtype=np.float64)
        if (below[:, -1] >= rank).all():
            break
    return scores[order[(below < rank).sum(axis=1)]]


def _accepted(counts: NDArray[np.float32], scores: NDArray[Any], thresholds: NDArray[Any]) -> Floats:
    """Counts the OOD images at or above the threshold in each resample: ``[B, m] -> [B]``."""
    low, high = thresholds.min(), thresholds.max()
    between = np.flatnonzero((scores >= low) & (scores < high))  # all others are on the same side in every resample
    between = between[scores[between].argsort()]
    above = counts @ (scores >= high).astype(np.float32)
    cumulative = _cumulative(counts[:, between])
    below = cumulative[np.arange(len(counts)), np.searchsorted(scores[between], thresholds, side="left")]
    return above + cumulative[:, -1] - below


def _resampled_auroc(
    id_counts: NDArray[np.float32], id_scores: NDArray[Any], ood_counts: NDArray[np.float32], ood_scores: NDArray[Any]
) -> Floats:
    """Computes ``Comparison.auroc`` with images weighted by their counts: ``[B, n], [B, m] -> [B]``."""
    order = ood_scores.argsort()
    cumulative = _cumulative(ood_counts[:, order])
    left, right = (np.searchsorted(ood_scores[order], id_scores, side=side) for side in ("left", "right"))
    below = cumulative[:, left] + cumulative[:, right]  # twice the OOD images below each ID image, ties counted half
    return (id_counts * below).sum(axis=1) / (2 * len(id_scores) * len(ood_scores))


def _cumulative(counts: NDArray[np.float32]) -> Floats:
    """Sums counts before each position: ``[B, m] -> [B, m + 1]``."""
    sums = counts.cumsum(axis=1, dtype=np.float64)
    return np.concatenate([np.zeros((len(counts), 1)), sums], axis=1)


def adjusted(p_values: ArrayLike, method: Literal["holm", "bh"]) -> NDArray[np.float64]:
    """Adjusts p-values ``[n]`` of one family for the number of comparisons.

    Args:
        p_values: p-values of all comparisons that are read together.
        method: ``holm`` bounds the chance of any false finding; ``bh`` (Benjamini and Hochberg) bounds the expected
            share of false findings among all findings.
    """
    p = np.asarray(p_values, dtype=np.float64)
    n, order = len(p), np.argsort(p, kind="stable")
    found = np.empty(n)
    if method == "holm":
        found[order] = np.maximum.accumulate(p[order] * np.arange(n, 0, -1))
    else:
        found[order] = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    return found.clip(max=1.0)
