"""A conformal test martingale: evidence, bounded over the whole stream, that images no longer come from the ID source.

Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2022, part III; Ville's inequality bounds it.
"""

from __future__ import annotations

import numpy as np
import torch

from lightning_ood.ops.hashing import hash_index

CHUNK = 512  # images whose order among each other is compared at once
POWERS, STAKES = (0.1, 0.3, 0.5, 0.7), (1.0, 0.3, 0.1)
LATE = 10  # images after which the reserve for a later start has begun to fall
_GRID = [(power, stake) for stake in STAKES for power in POWERS]


class OnlineRanks:
    """Ranks each score among all scores before it, calibration scores included, as a p-value in (0, 1].

    If calibration images and stream are exchangeable, these p-values are independent and uniform at any length of the
    stream. Those of a fixed calibration set are not: a long stream would be tested against the luck of its draw. Equal
    scores are put in random order, by a hash of seed and position. Scores are counted in bins that are 0.05 % wide.

    Args:
        counts: ``[bins]`` int64, counts of the calibration scores; added to in place.
        seed: of the random order of equal scores.
        seen: number of images of the stream that ``counts`` has already.
    """

    def __init__(self, counts: np.ndarray, seed: int = 0, seen: int = 0) -> None:
        self.counts, self.seed, self.seen = counts, seed, seen

    def __call__(self, bins: np.ndarray) -> np.ndarray:
        """Returns the p-values ``[B]`` of the next scores, whose bins are ``[B]``, and counts them."""
        parts = [self._chunk(bins[start : start + CHUNK]) for start in range(0, len(bins), CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _chunk(self, bins: np.ndarray) -> np.ndarray:
        below = np.cumsum(self.counts)  # [bins], scores up to each bin
        total = int(below[-1])
        earlier = np.tri(len(bins), k=-1, dtype=bool)  # [B, B], j < i
        less = below[bins] - self.counts[bins] + ((bins[None] < bins[:, None]) & earlier).sum(1)
        equal = self.counts[bins] + ((bins[None] == bins[:, None]) & earlier).sum(1)
        position = torch.arange(self.seen, self.seen + len(bins))
        uniform = (hash_index(position, self.seed, stream=29).double().numpy() + 1) / 2.0**63  # (0, 1]
        np.add.at(self.counts, bins, 1)
        self.seen += len(bins)
        return (less + uniform * (equal + 1)) / (total + np.arange(len(bins)) + 1)


class Martingale:
    """Capital of a gambler who bets on small p-values; on an exchangeable stream no bet pays on average.

    The bets are ``1 - stake + stake * power * p**(power - 1)`` for 12 pairs of power and stake, so that few OOD images
    among many ID ones pay too. A share of the capital starts to bet at each image, so that a change is seen after any
    number of ID images. It starts at 1. On an exchangeable stream ``P(it ever reaches c) <= 1 / c`` (Ville).

    Attributes:
        seen: number of p-values.
        log_stakes: ``[bets]``, logarithm of the capital in each bet.
        log_capital: logarithm of the capital now.
        log_peak: logarithm of the largest capital so far.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.log_stakes = np.full(len(_GRID), -np.inf)
        self.log_capital = self.log_peak = 0.0

    def update(self, p: np.ndarray) -> np.ndarray:
        """Bets on the next p-values ``[B]``; returns the logarithm of the capital ``[B]`` after each."""
        if len(p) == 0:
            return np.empty(0)
        at = np.arange(self.seen, self.seen + len(p) + 1)
        reserve = 1 / (1 + np.log1p(at / LATE))  # [B + 1], the share that has not started
        entering = np.log(reserve[:-1] - reserve[1:])  # [B]
        gains = np.stack([np.log1p(stake * (power * p ** (power - 1) - 1)) for power, stake in _GRID])  # [bets, B]
        total = np.cumsum(gains, axis=1)  # [bets, B]
        before = np.concatenate([np.zeros((len(_GRID), 1)), total[:, :-1]], axis=1)
        entered = np.concatenate([self.log_stakes[:, None], entering - before], axis=1)  # [bets, 1 + B]
        stakes = total + np.logaddexp.accumulate(entered, axis=1)[:, 1:]  # [bets, B]
        mean = np.logaddexp.reduce(stakes, axis=0) - np.log(len(_GRID))
        capital: np.ndarray = np.logaddexp(mean, np.log(reserve[1:]))
        self.seen, self.log_stakes = self.seen + len(p), stakes[:, -1]
        self.log_capital, self.log_peak = float(capital[-1]), max(self.log_peak, float(capital.max()))
        return capital
