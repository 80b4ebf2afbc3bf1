"""Split-conformal decisions: p-values, thresholds and false-alarm rates that hold for any detector and any network.

The n calibration images are ID images on which nothing was fitted. If they and a new ID image are exchangeable, its
p-value ``p = (1 + #{calibration scores <= s}) / (n + 1)`` satisfies ``P(p <= alpha) <= alpha`` at any n (Vovk et al.
2005; Bates et al. 2023, https://arxiv.org/abs/2104.08279).
"""

from __future__ import annotations

import math

import numpy as np

from lightning_ood.errors import InputError

CONFIDENCE = 0.95  # over the draw of the calibration set


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Computes conformal p-values ``[B]`` of the hypothesis that an image is ID.

    Args:
        scores: ``[B]``, higher = more in-distribution.
        calibration: ``[n]``, scores of the calibration images in ascending order.
    """
    below = np.searchsorted(calibration, scores, side="right")
    return (1 + below) / (len(calibration) + 1)


def class_p_values(
    scores: np.ndarray, predictions: np.ndarray, calibration: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Computes p-values ``[B]`` within the predicted class (Mondrian): valid for the images of each predicted class.

    Args:
        scores: ``[B]``.
        predictions: ``[B]``, predicted classes.
        calibration: ``[n]``, scores of the calibration images.
        classes: ``[n]``, their predicted classes.

    Returns:
        p-values; 1 for a class without a calibration image.
    """
    found = np.ones(len(scores))
    for label in np.unique(predictions):
        chosen = predictions == label
        found[chosen] = p_values(scores[chosen], np.sort(calibration[classes == label]))
    return found


def check_accept(accept: float) -> float:
    """Returns the asked acceptance of ID images if it is a share between 0 and 1.

    Raises:
        InputError: if it is not.
    """
    if not 0 < accept < 1:
        raise InputError(f"accept={accept}: write the share of ID images to accept, such as 0.95")
    return accept


def rank(n: int, accept: float) -> int:
    """Returns k: an image is OOD where its score is below the k-th smallest of n calibration scores.

    That is the same decision as ``p <= 1 - accept``.

    Raises:
        InputError: if n calibration images are too few to reject any image at this acceptance.
    """
    k = math.floor((1 - check_accept(accept)) * (n + 1) + 1e-9)
    if k < 1:
        raise InputError(
            f"accept={accept} with {n} calibration images would never reject an image: it needs at least "
            f"{smallest(accept)}; give more calibration images or a lower acceptance"
        )
    return k


def smallest(accept: float) -> int:
    """Returns the smallest number of calibration images at which an image can be rejected."""
    return math.ceil(1 / (1 - accept) - 1e-9) - 1


def threshold(calibration: np.ndarray, accept: float) -> float:
    """Returns the score below which an image is OOD.

    Args:
        calibration: ``[n]``, ascending.
        accept: least share of ID images that is accepted, on average over calibration sets.
    """
    return float(calibration[rank(len(calibration), accept) - 1])


def guaranteed(n: int, accept: float, confidence: float = CONFIDENCE) -> float:
    """Returns the acceptance of ID images that a threshold has at least, with confidence over the calibration set.

    Given a calibration set, the acceptance of the threshold of :func:`threshold` follows Beta(n + 1 - k, k) for
    continuous scores and is larger with ties (Vovk 2012, https://arxiv.org/abs/1209.2673).
    """
    from scipy.special import betaincinv

    k = rank(n, accept)
    return float(betaincinv(n + 1 - k, k, 1 - confidence))


def accept_for(n: int, accept: float, confidence: float = CONFIDENCE) -> float:
    """Returns the acceptance to ask for so that at least ``accept`` holds with confidence over the calibration set.

    Raises:
        InputError: if n calibration images cannot give this guarantee.
    """
    from scipy.special import betaincinv

    check_accept(accept)
    ranks = np.arange(1, n + 1)
    holds = betaincinv(n + 1 - ranks, ranks, 1 - confidence) >= accept
    if not holds.any():
        needed = math.ceil(math.log(1 - confidence) / math.log(accept))
        raise InputError(
            f"{n} calibration images cannot guarantee an acceptance of {accept} with {confidence:.0%} confidence: it "
            f"needs at least {needed}"
        )
    return 1 - float(ranks[holds].max()) / (n + 1)


def too_small(classes: np.ndarray, accept: float, count: int) -> dict[int, int]:
    """Returns class -> number of calibration images, for classes too small to reject an image within the class.

    Args:
        classes: ``[n]``, predicted classes of the calibration images.
        accept: the asked acceptance.
        count: number of classes.
    """
    sizes = np.bincount(classes, minlength=count)
    return {label: int(size) for label, size in enumerate(sizes) if size < smallest(accept)}


def benjamini_hochberg(p: np.ndarray, fdr: float) -> np.ndarray:
    """Decides for a whole batch: OOD images such that at most a share ``fdr`` of them is ID, on average.

    Conformal p-values of one calibration set are positively dependent, so the rule of Benjamini and Hochberg (1995)
    keeps its rate (Bates et al. 2023, theorem 2).

    Args:
        p: ``[B]``, marginal p-values.
        fdr: false-discovery rate in (0, 1).

    Returns:
        boolean ``[B]``, True = OOD.
    """
    if not 0 < fdr < 1:
        raise InputError(f"fdr={fdr}: write the share of false alarms among the alarms, such as 0.1")
    order = np.argsort(p, kind="stable")
    passed = np.flatnonzero(p[order] <= fdr * np.arange(1, len(p) + 1) / max(len(p), 1) + 1e-12)
    found = np.zeros(len(p), dtype=bool)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return found
