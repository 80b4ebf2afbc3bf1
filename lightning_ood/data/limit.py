"""A few images of each set for a first try (``data.limit``): spread over the set, with equal shares of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_ood.data.sets import ImageSet
from lightning_ood.ops.hashing import hash_index

_CLASSES, _IMAGES = 31, 37  # streams of the draws


def limited(images: ImageSet, limit: int | None, seed: int = 0) -> ImageSet:
    """Returns the set with at most ``limit`` of its images, or the set itself where it has no more.

    Args:
        images: a set whose labels are known where it has any.
        limit: the most images; None for all.
        seed: of the draw.
    """
    if limit is None or len(images) <= limit:
        return images
    labels = torch.zeros(len(images), dtype=torch.int64) if images.labels is None else images.labels
    return images.subset(balanced(labels, limit, seed))


def balanced(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draws positions with equal shares of every label; what a class has too few of, larger ones give.

    Args:
        labels: ``[N]`` int64; images without a label (-1) share one as a class does.
        count: how many to draw, at most N.
        seed: of the draw.

    Returns:
        ``[count]`` int64, rising; those of a class are spread evenly over its images.
    """
    sizes = labels.unique(return_counts=True)[1]
    classes = labels.argsort(stable=True).split(sizes.tolist())
    drawn = hash_index(torch.arange(len(classes)), seed, _CLASSES).tolist()  # which get one more, or one at all
    left, chosen = count, []
    for done, k in enumerate(sorted(range(len(classes)), key=lambda k: (len(classes[k]), drawn[k]))):
        share = min(len(classes[k]), left // (len(classes) - done))
        left -= share
        chosen.append(classes[k][_spread(len(classes[k]), share, seed)])
    return torch.cat(chosen).sort().values


def _spread(size: int, count: int, seed: int) -> Tensor:
    """Draws one of each of ``count`` equal parts of ``range(size)``."""
    starts = torch.arange(count + 1) * size // max(1, count)
    return starts[:-1] + hash_index(starts[:-1], seed, _IMAGES) % starts.diff()
