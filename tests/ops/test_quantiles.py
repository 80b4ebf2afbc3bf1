"""Percentiles are numpy's, whatever the values do to the guess that makes them fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_ood.ops.quantiles import SAMPLE, percentile

RANDOM = np.random.default_rng(2)
N = 40 * SAMPLE
STRIDE = N // SAMPLE | 1


def misleading() -> NDArray[np.float64]:
    """The entries that are sampled are all large: the guess is wrong for every rank."""
    values = RANDOM.normal(size=N)
    values[::STRIDE] += 100
    return values


VALUES = {
    "one": np.ones(1),
    "few": RANDOM.normal(size=7 * 143),
    "many": RANDOM.normal(size=N),
    "sorted": np.sort(RANDOM.normal(size=N)),
    "ties": RANDOM.integers(0, 3, N).astype(float),
    "mostly zero": RANDOM.normal(size=N) * (RANDOM.random(N) < 0.05),
    "infinite": np.where(RANDOM.random(N) < 0.4, -np.inf, RANDOM.normal(size=N)),
    "misleading": misleading(),
}


@pytest.mark.parametrize("name", VALUES)
def test_percentile_is_numpys(name: str) -> None:
    values = VALUES[name].astype(np.float32)
    for q in (0, 12.3, 50, 90, 99.9, 100):
        expected = np.percentile(values.astype(np.float64), q)
        assert percentile(torch.from_numpy(values), q).item() == pytest.approx(float(expected), abs=1e-12, nan_ok=True)


def test_nan_is_not_hidden() -> None:
    values = torch.full((N,), torch.nan)
    assert percentile(values, 50).isnan()
