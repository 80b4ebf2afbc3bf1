import numpy as np
import pytest
import torch

from lightning_ood.detectors.lts import LTS
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import given, random_features


def test_worked_example():
    # Rectified sum 10, the 2 largest of 4 units hold 8: the logits times 1.5625; without a positive unit as they are.
    logits = torch.tensor([[2.0, 1], [2, 1]])
    batch = given(logits, torch.tensor([[3.0, 5, 2, -7], [-1, -2, 0, 0]]))
    torch.testing.assert_close(LTS(50, MaxLogit()).score(batch, {}), torch.tensor([3.125, 2]))
    assert LTS(50).score(batch, {})[0].item() == pytest.approx(np.log(np.exp(3.125) + np.exp(1.5625)))


@pytest.mark.parametrize("percentile", [0, 35.0, 65.0, 95.0])
def test_reference(percentile):
    _, test = random_features()
    z, logits = test.pooled.double().numpy().clip(0), test.logits.double().numpy()
    top = np.sort(z, 1)[:, int(np.round(24 * percentile / 100)) :]
    scaled = logits * (z.sum(1) / top.sum(1))[:, None] ** 2
    np.testing.assert_allclose(LTS(percentile).score(test, {}), np.log(np.exp(scaled).sum(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("percentile", [-1, 100])
def test_percentile_out_of_range(percentile):
    with pytest.raises(InputError, match="write for example 90"):
        LTS(percentile)


def test_contract():
    check_detector(lambda: LTS(90, MaxLogit()))
