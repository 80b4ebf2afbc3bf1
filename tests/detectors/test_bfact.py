import numpy as np
import pytest
import torch

from lightning_ood.detectors.bfact import BFAct
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from lightning_ood.testing import check_detector
from tests.helpers.toys import features, fit, fitted_score, random_features


def test_worked_example():
    # c = 2, N = 1: 2 / sqrt 2, 0, -2 / sqrt 2 and 4 / sqrt 5.
    head = Head(torch.eye(4), torch.zeros(4))
    query = features(torch.tensor([[2.0, 0, -2, 4]]), head)
    expected = torch.tensor([[2**0.5, 0, -(2**0.5), 4 / 5**0.5]])
    torch.testing.assert_close(BFAct(threshold=2.0, order=1).logits(query, {}), expected)
    assert BFAct(MaxLogit(), threshold=2.0, order=2).score(query, {}).item() == pytest.approx(2**0.5)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_reference(order):
    train, test = random_features()
    c = np.percentile(train.pooled.numpy(), 95)
    assert fit(BFAct(order=order), train)["threshold"].item() == pytest.approx(c, rel=1e-3)
    z, w, b = (t.double().numpy() for t in (test.pooled, test.head.weight, test.head.bias))
    logits = z / np.sqrt(1 + (z / c) ** (2 * order)) @ w.T + b
    expected = np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(fitted_score(BFAct(order=order), train, test), expected, rtol=2e-3, atol=2e-3)


def test_percentile_of_a_mostly_dead_network():
    train = features(torch.zeros(5, 3))
    assert fitted_score(BFAct(), train, features(torch.rand(4, 3))).isfinite().all()


@pytest.mark.parametrize("arguments", [{"order": 0}, {"threshold": 0.0}, {"threshold": -1.0}])
def test_out_of_range(arguments):
    with pytest.raises(InputError, match="have to be positive; write order: 2"):
        BFAct(**arguments)


def test_contract():
    check_detector(lambda: BFAct(MaxLogit(), threshold=1.0, order=3))
