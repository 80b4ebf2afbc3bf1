"""What a fit pass saw, and the doubts that several detectors find in it, as plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_ood.features import Features
from lightning_ood.metrics.rates import auroc

FEW = 5  # training images of a class, below which its mean is doubted
FLIPPED = 1 / 3  # share of training images whose predicted class a shaping may change without a doubt


@dataclass(frozen=True)
class Seen:
    """What a fit pass saw.

    Attributes:
        images: N, the number of training images.
        width: D, length of the penultimate feature.
        labelled: ``[K]``, number of training images with each label; None without labels.
        sample: a small uniform sample of the training images; None where batches have no index.
        jigsaws: jigsaws of the same images, where the pass made them for some detector.
    """

    images: int
    width: int
    labelled: Tensor | None = None
    sample: Features | None = None
    jigsaws: Features | None = None

    def holds(self, detector: Any) -> bool:
        """Tells whether the sample has all fields that the detector reads in scoring."""
        if self.sample is None or detector.extra_forwards["test"]:
            return False
        reads, held = detector.reads, self.sample
        maps = set(reads.taps) <= set(held.maps) and set(reads.gradients) <= set(held.gradients)
        return maps and not (reads.attention and held.attention is None) and not (reads.head and held.head is None)


def jigsaw_doubts(detector: Any, fitted: Mapping[str, Tensor], seen: Seen) -> list[str]:
    """Doubts a detector that scores jigsaws of training images above the images themselves.

    Told where the AUROC is below 50 by more than two standard errors.
    """
    if seen.jigsaws is None or seen.sample is None or not len(seen.jigsaws) or not seen.holds(detector):
        return []
    images, jigsaws = (detector.score(features, fitted).double() for features in (seen.sample, seen.jigsaws))
    n, m = len(images), len(jigsaws)
    error = ((n + m + 1) / (12 * n * m)) ** 0.5  # of an AUROC of 0.5
    value = auroc(images, jigsaws)
    if not value < 0.5 - 2 * error:
        return []
    return [
        f"it scores jigsaws of the training images above the images (AUROC {100 * value:.1f} on {n}): what it takes "
        "for in-distribution is something else on this network; read its tap and settings again, or leave it out"
    ]


def shaping_doubts(logits: Tensor, sample: Features) -> list[str]:
    """Doubts a shaping whose logits ``[B, K]`` predict other classes than the network does."""
    flipped = float((logits.argmax(1) != sample.prediction).double().mean())
    if flipped <= FLIPPED:
        return []
    return [
        f"its logits predict another class than the network's for {flipped:.0%} of {len(sample)} training images: its "
        "constants belong to another network; search them (Search), or write a milder percentile or threshold"
    ]


def clip_doubts(threshold: float, seen: Seen) -> list[str]:
    """Doubts a threshold that clips no entry of the sampled training features, or more than half of them."""
    if seen.sample is None or not len(seen.sample) or threshold == float("inf"):
        return []
    entries = seen.sample.pooled
    largest, clipped = float(entries.max()), float((entries > threshold).double().mean())
    advice = "the constant belongs to another network; write a percentile of the training features instead"
    if clipped == 0:
        return [f"its threshold {threshold:.4g} clips nothing (largest training feature: {largest:.4g}): {advice}"]
    if clipped > 0.5:
        return [f"its threshold {threshold:.4g} clips {clipped:.0%} of the entries of training features: {advice}"]
    return []


def rank_doubts(images: int, classes: int, width: int, what: str, advice: str) -> list[str]:
    """Doubts a covariance of too few images.

    Args:
        images: number of images in it.
        classes: number of means that were subtracted.
        width: D.
        what: name of the covariance.
        advice: what to write.
    """
    rank = max(images - classes, 0)
    if rank >= width:
        return []
    found = f"{what} has at most rank {rank} in {width} dimensions ({images} images, {classes} means)"
    why = "every distance is 0" if rank == 0 else "distances count nothing in the other directions"
    return [f"{found}: {why}; {advice}"]


def class_doubts(images: Tensor, what: str) -> list[str]:
    """Doubts a fit in which classes are empty.

    Args:
        images: ``[K]``, number of images of each class, or whether it has any.
        what: what an empty class lacks, and what follows.
    """
    empty = int((images == 0).sum())
    return [f"{empty} of {len(images)} classes {what}; fit on more images of them"] if empty else []


def few_doubts(seen: Seen, classes: int, what: str, least: int = FEW) -> list[str]:
    """Doubts statistics of single classes, where half of the classes have fewer training images than ``least``.

    Args:
        seen: what the pass saw; without labels each class counts as having the same share of the images.
        classes: K.
        what: name of the statistics.
        least: how many images a statistic needs at least.
    """
    images = seen.labelled if seen.labelled is not None else torch.full((classes,), seen.images // classes)
    present = images[images > 0]
    middle = int(present.median()) if len(present) else least
    if middle >= least:
        return []
    return [
        f"{what} need at least {least} training images per class, and half of the classes have {middle} or fewer: they "
        "describe these images, not the class; fit on more images per class, or leave it out"
    ]


def spectrum_doubts(images: int, width: int, what: str) -> list[str]:
    """Doubts small eigenvalues of a second moment of fewer than two images per dimension.

    Args:
        images: N.
        width: D.
        what: what is computed from them.
    """
    if images >= 2 * width:
        return []
    return [
        f"{what} comes from the small eigenvalues of a moment of {images} images in {width} dimensions: fewer than two "
        "images per dimension leave training images themselves there, not their kind; fit on more images"
    ]


def search_doubts(best: float, ends: Sequence[str]) -> list[str]:
    """Doubts a search.

    Args:
        best: AUROC of the best candidate, a fraction, averaged over pseudo-OOD sets.
        ends: chosen arguments at an end of their values, as ``name=value``.
    """
    found = []
    if ends:
        found.append(
            f"its search ends at {', '.join(ends)}, a boundary of what it tried: the best value may lie outside, or "
            "pseudo-OOD is the wrong guide; widen the grid, or set the value yourself"
        )
    if best < 0.5:
        found.append(
            f"the best that its search found scores pseudo-OOD above training images (AUROC {100 * best:.1f}): the "
            "detector fails on this network or pseudo-OOD is the wrong kind; name other views, or leave it out"
        )
    return found


def ends_of(grid: Mapping[str, Sequence[object]], chosen: Mapping[str, object]) -> list[str]:
    """Lists the chosen numbers that are the smallest or largest of at least three values: ``name=value``."""
    found = []
    for name, values in grid.items():
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(set(numbers)) > 2 and chosen[name] in (min(numbers), max(numbers)):
            found.append(f"{name}={chosen[name]}")
    return found


def inside(name: str, doubts: Sequence[str]) -> list[str]:
    """Names the part of a detector that the doubts are about."""
    return [f"{name}: {doubt}" for doubt in doubts]
