"""Linear classifiers in closed form, from the class means and second moments of a stream of features."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_ood.features import Head

Sums = tuple[Tensor, Tensor, Tensor]  # number of rows [K] and their sum [K, D] per class, sum of z z^T [D, D]; float64

_SHRINKAGES = torch.logspace(-6, 1, 15, dtype=torch.float64)  # in units of the mean variance of a unit
_SCALES = torch.logspace(0, 10, 41, base=2.0, dtype=torch.float64)
_ABSENT = -1e9  # logit of a class without rows


def class_sums(rows: Tensor, labels: Tensor, classes: int) -> Sums:
    """Sums rows ``[n, D]`` of the classes ``labels`` ``[n]``."""
    rows = rows.double()
    count = torch.bincount(labels, minlength=classes).double()
    sums = rows.new_zeros(classes, rows.shape[1]).index_add(0, labels, rows)
    return count, sums, rows.T @ rows


def nearest_mean_head(count: Tensor, sums: Tensor) -> Head:
    """Computes the head whose largest logit is that of the nearest class mean: ``mu_k z - |mu_k|^2 / 2``.

    Args:
        count: ``[K]``, rows of each class; a class without rows is never the nearest.
        sums: ``[K, D]``.
    """
    means = sums / count.clamp(min=1)[:, None]  # [K, D]
    bias = -means.square().sum(1) / 2
    return Head(means.float(), bias.where(count > 0, _ABSENT).float())


def ridge_head(total: Sums, rows: Tensor, labels: Tensor) -> Head:
    """Computes a ridge regression of one-hot labels on the features, times a scale: a linear probe in closed form.

    ``f(z) = p + (C + r t I)^-1 B (z - mean)``: C the scatter of the features, t its mean eigenvalue, B their products
    with the centred labels, p the shares of the classes. The logits are ``scale * f``, since softmax needs more than
    the range from 0 to 1. r and the scale are those with the smallest cross-entropy (of slightly smoothed labels) on
    held-out rows, by a regression on the others; then all rows are fitted.

    Args:
        total: the sums of all rows.
        rows: ``[n, D]``, a sample of them, held out for the choice of r and scale.
        labels: ``[n]`` int64, classes of the sample.
    """
    held_out = class_sums(rows, labels, len(total[0]))
    others = _Regression(*(a - b for a, b in zip(total, held_out, strict=True)))
    rows = rows.double()
    losses = [_losses(others.head(r), rows, labels) for r in _SHRINKAGES.tolist()]  # [scales] each
    best = int(torch.stack(losses).flatten().argmin())
    shrinkage, scale = _SHRINKAGES[best // len(_SCALES)], float(_SCALES[best % len(_SCALES)])
    weight, bias = _Regression(*total).head(float(shrinkage))
    return Head((scale * weight).float(), (scale * bias).float())


class _Regression:
    """Ridge regressions of one-hot labels on the same rows, with one eigendecomposition for every shrinkage."""

    def __init__(self, count: Tensor, sums: Tensor, products: Tensor) -> None:
        images = count.sum().clamp(min=1)
        self.shares, self.mean = count / images, sums.sum(0) / images
        scatter = products - images * torch.outer(self.mean, self.mean)
        self.values, self.vectors = torch.linalg.eigh(scatter)  # [D], [D, D]
        # Below the rounding of float32 features, as in `whitening`, a direction says nothing.
        self.floor = 1e-14 * len(scatter) * products.diagonal().amax() + torch.finfo(scatter.dtype).tiny
        cross = sums - count[:, None] * self.mean  # [K, D], products of centred labels and features
        self.cross = cross @ self.vectors

    def head(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Returns weight ``[K, D]`` and bias ``[K]`` without a scale, float64."""
        values = self.values.clamp(min=0)
        weight = (self.cross / (values + shrinkage * values.mean() + self.floor)) @ self.vectors.T
        return weight, self.shares - weight @ self.mean


def _losses(head: tuple[Tensor, Tensor], rows: Tensor, labels: Tensor) -> Tensor:
    """Computes the cross-entropy on rows ``[n, D]`` for every scale of the logits: ``[scales]``.

    The labels are smoothed by ``1 / (n + 2)``, as Platt does: classes that are separated on n rows say no more, and
    without it every large scale would be as good as the next, up to rounding.
    """
    logits = rows @ head[0].T + head[1]
    smoothing = 1 / (len(rows) + 2)
    own = logits.gather(1, labels[:, None]).squeeze(1).mean()
    own = (1 - smoothing) * own + smoothing * logits.mean()
    scales = _SCALES.to(logits.device)
    return torch.stack([(scale * logits).logsumexp(1).mean() - scale * own for scale in scales])
