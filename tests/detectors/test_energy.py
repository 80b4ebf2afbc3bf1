import math

import pytest
import torch

from lightning_ood.detectors.energy import Energy
from lightning_ood.features import Features

LOGITS = torch.tensor([[3.0, 2.0]])


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 3.313262), (2.0, 3.948154)])
def test_value(temperature: float, value: float) -> None:
    assert Energy(temperature).of_logits(LOGITS).item() == pytest.approx(value, abs=1e-6)


def test_bounds_and_shift() -> None:
    logits = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) * 10
    energy, top = Energy(2.0).of_logits(logits), logits.amax(1)
    assert (energy >= top - 1e-5).all() and (energy <= top + 2 * math.log(6) + 1e-5).all()
    torch.testing.assert_close(Energy().of_logits(logits + 5), Energy().of_logits(logits) + 5)


def test_negative_energy_enters_a_product_as_the_smallest_positive_number() -> None:
    features = Features(torch.tensor([[-3.0, -2.0], [3.0, 2.0]]), torch.zeros(2, 3))
    torch.testing.assert_close(Energy().log_score(features, {}), torch.tensor([1e-6, 3.313262]).log())
