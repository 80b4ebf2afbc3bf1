"""Differences between scores of the same images: DeLong's test of AUROC and the paired bootstrap, on raw scores.

What varies is the draw of the test images, as in ``lightning_ood.metrics.intervals``: an image that is drawn is drawn
for both sides. Where a side is a mean over repetitions (seeds, checkpoints), these are held fixed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lightning_ood.metrics.intervals import LEVEL, Z, delong
from lightning_ood.metrics.rates import Comparison, count_95

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
    """What DeLong's test needs of a detector on one OOD set, in the order of the images.

    Attributes:
        id: ``[n]`` share of the OOD images below each ID image, ties half.
        ood: ``[m]`` share of the ID images above each OOD image, ties half.
    """

    id: Floats
    ood: Floats

    @staticmethod
    def of(id_scores: Sequence[NDArray[Any]], ood_scores: Sequence[NDArray[Any]]) -> Placements:
        """Means over repetitions of one detector, each with its scores ``[n]`` and ``[m]``."""
        ids, oods = [], []
        for known, other in zip(id_scores, ood_scores, strict=True):
            both = Comparison(np.sort(known), np.sort(other))
            ids.append(both.id_placements[np.searchsorted(both.id, known)])
            oods.append(both.ood_placements[np.searchsorted(both.ood, other)])
        return Placements(np.mean(ids, axis=0), np.mean(oods, axis=0))


def auroc_difference(first: Sequence[Placements], second: Sequence[Placements]) -> Difference:
    """DeLong's paired test of the mean AUROC over OOD sets that share the ID images.

    An AUROC is the mean of its placements, so the difference of two is the mean of the differences of placements, and
    its variance follows as that of one AUROC does (``intervals.delong``): covariances are in it. The p-value is that
    of a normal deviate.

    Args:
        first: one per set.
        second: of the same images in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    known = np.mean([b.id - a.id for a, b in pairs], axis=0)
    if min(len(known), *(len(a.ood) for a in first)) < 2:
        return Difference(float(known.mean()), -1.0, 1.0, 1.0)
    estimate, deviation = delong(known, [b.ood - a.ood for a, b in pairs])
    if deviation == 0:
        return Difference(estimate, estimate, estimate, float(estimate == 0))
    p_value = 2 * float(norm.sf(abs(estimate) / deviation))
    return Difference(estimate, estimate - Z * deviation, estimate + Z * deviation, p_value)


def drawn_difference(estimate: float, first: Floats, second: Floats) -> Difference:
    """From draws of the paired bootstrap: percentile interval, and twice the smaller share on the other side of zero.

    A draw of exactly zero counts on both sides; the p-value is at least 2 / (draws + 1).

    Args:
        estimate: on the images themselves.
        first: ``[draws]`` of one side.
        second: ``[draws]``, of the same resamples.
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
    """Resamples the images with replacement, ID and OOD apart, the same resamples for every detector.

    Args:
        id_scores: ``[E, n]``, of E detectors.
        ood_scores: set -> ``[E, m]``; all sets see the same ID resamples.
        draws: number of resamples.
        seed: of the draws; those of a set depend on its name, not on the other sets.
        metric: FPR95 with ID positive, or AUROC.

    Returns:
        Set -> ``[E, draws]``, fractions.
    """
    n = id_scores.shape[1]
    order = id_scores.argsort(axis=1)
    out = {name: np.empty((len(id_scores), draws)) for name in ood_scores}
    streams = {name: resamples(scores.shape[1], draws, seed, name) for name, scores in ood_scores.items()}
    start = 0
    for known in resamples(n, draws, seed):
        at = slice(start, start + len(known))
        start += len(known)
        thresholds = [_thresholds(known, scores, by) for scores, by in zip(id_scores, order, strict=True)]
        for name, scores in ood_scores.items():
            other = next(streams[name])
            for e, (mine, theirs) in enumerate(zip(id_scores, scores, strict=True)):
                if metric == "fpr95":
                    out[name][e, at] = _accepted(other, theirs, thresholds[e]) / len(theirs)
                else:
                    out[name][e, at] = _auroc(known, mine, other, theirs)
    return out


def resamples(size: int, draws: int, seed: int, name: str = "") -> Iterator[NDArray[np.float32]]:
    """How often each image is drawn: ``[at most 250, size]`` until there are ``draws`` rows, each with sum ``size``."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    for start in range(0, draws, _AT_ONCE):
        rows = min(_AT_ONCE, draws - start)
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float32)


def _thresholds(counts: NDArray[np.float32], scores: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """``[B]``: the threshold that keeps 95 % of each resample of the ID images."""
    n = len(scores)
    rank = n - count_95(n) + 1  # from below
    for tail in (min(n, rank + 8 * int(np.sqrt(rank)) + 8), n):  # all but never more than the tail is needed
        below = counts[:, order[:tail]].cumsum(axis=1, dtype=np.float64)
        if (below[:, -1] >= rank).all():
            break
    return scores[order[(below < rank).sum(axis=1)]]


def _accepted(counts: NDArray[np.float32], scores: NDArray[Any], thresholds: NDArray[Any]) -> Floats:
    """``[B]``: number of OOD images of each resample at or above its threshold."""
    low, high = thresholds.min(), thresholds.max()
    between = np.flatnonzero((scores >= low) & (scores < high))  # the others are on one side in every resample
    between = between[scores[between].argsort()]
    above = counts @ (scores >= high).astype(np.float32)
    held = counts[:, between].cumsum(axis=1, dtype=np.float64)
    held = np.concatenate([np.zeros((len(counts), 1)), held], axis=1)
    below = held[np.arange(len(counts)), np.searchsorted(scores[between], thresholds, side="left")]
    return above + held[:, -1] - below


def _auroc(
    known: NDArray[np.float32], id_scores: NDArray[Any], other: NDArray[np.float32], ood_scores: NDArray[Any]
) -> Floats:
    """``[B]``: AUROC of each resample."""
    order = ood_scores.argsort()
    held = other[:, order].cumsum(axis=1, dtype=np.float64)
    held = np.concatenate([np.zeros((len(other), 1)), held], axis=1)
    places = [np.searchsorted(ood_scores[order], id_scores, side=side) for side in ("left", "right")]
    below = held[:, places[0]] + held[:, places[1]]
    return (known * below).sum(axis=1) / (2 * len(id_scores) * len(ood_scores))
