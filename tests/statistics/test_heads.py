"""Heads in closed form, against a direct solution and a brute-force search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.statistics.heads import class_sums, nearest_mean_head, ridge_head


def clusters(size: int = 600, classes: int = 4, width: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % classes
    means = 2 * torch.randn(classes, width, generator=draw)
    return means[labels] + torch.randn(size, width, generator=draw) + 3.0, labels


def test_nearest_mean() -> None:
    rows, labels = clusters()
    count, sums, _ = class_sums(rows, labels, 5)
    means = torch.stack([rows[labels == k].double().mean(0) for k in range(4)])
    expected = torch.cdist(rows.double(), means).argmin(1)
    head = nearest_mean_head(count, sums)
    assert torch.equal(head(rows).argmax(1), expected), "the fifth class has no rows and is never the nearest"


def test_ridge_is_the_direct_solution_times_a_scale() -> None:
    rows, labels = clusters()
    head = ridge_head(class_sums(rows, labels, 4), rows[:100], labels[:100])
    z, y = rows.double().numpy(), F.one_hot(labels, 4).double().numpy()
    centred, target = z - z.mean(0), y - y.mean(0)
    scatter = centred.T @ centred

    def direct(shrinkage: float) -> np.ndarray:
        return np.linalg.solve(scatter + shrinkage * np.trace(scatter) / 12 * np.eye(12), centred.T @ target).T

    weight = head.weight.double().numpy()
    ratios = [weight / direct(r) for r in np.logspace(-6, 1, 15)]
    spread, best = min((float(np.ptp(ratio)), i) for i, ratio in enumerate(ratios))
    scale = float(ratios[best].mean())
    assert spread < 1e-3 * scale and scale > 1
    np.testing.assert_allclose(head.bias, scale * (y.mean(0) - direct(np.logspace(-6, 1, 15)[best]) @ z.mean(0)), 1e-3)
    assert (head(rows).argmax(1) == labels).double().mean() > 0.97
    loss = float(F.cross_entropy(head(rows[:100]), labels[:100]))
    for factor in (0.5, 2.0):
        assert loss < float(F.cross_entropy(factor * head(rows[:100]), labels[:100])) + 0.02, "the scale fits softmax"


@pytest.mark.parametrize("rows", [torch.ones(20, 3), torch.zeros(20, 3)])
def test_features_that_are_all_alike(rows: Tensor) -> None:
    labels = torch.arange(20) % 2
    head = ridge_head(class_sums(rows, labels, 2), rows[:4], labels[:4])
    assert head.weight.isfinite().all() and head.bias.isfinite().all()
