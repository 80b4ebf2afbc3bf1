from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.optfs import OptFS
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from lightning_ood.testing import check_detector
from tests.helpers.toys import features, fit, random_features


def reference(train, test, ends, bins):
    w = train.head.weight.double().numpy()
    edges = np.linspace(*ends, bins + 1)
    z, x = (f.pooled.double().numpy() for f in (train, test))
    contribution = w[train.prediction.numpy()] * z
    inside = [(z >= a) & (z < b) for a, b in pairwise(edges)]
    theta = np.array([(contribution * mask).sum(1).mean() for mask in inside])
    theta = theta / np.linalg.norm(theta) * 1000
    shaped = sum(t * x * ((x >= a) & (x < b)) for t, a, b in zip(theta, edges[:-1], edges[1:], strict=True))
    return theta, (w[test.prediction.numpy()] * shaped).sum(1), shaped @ w.T + train.head.bias.double().numpy()


def test_worked_example():
    # Range about [0, 4), two intervals. Class 0 is always predicted: 1 * 1 + 1 * 1 below 2, and 3 * 3 above.
    # theta = (2, 9) / sqrt 85 * 1000; V of (1, 3): (1 * 2 + 3 * 9) / sqrt 85 * 1000.
    head = Head(torch.tensor([[1.0, 1], [-1, -1]]), torch.tensor([0.5, 0]))
    train = features(torch.tensor([[1.0, 1], [0, 3]]), head)
    detector = OptFS(bins=2)
    fitted = fit(detector, train)
    fitted["range"] = torch.tensor([0.0, 4])  # quantiles of four entries are those of the entries
    theta = torch.tensor([2.0, 9]) / 85**0.5 * 1000
    query = features(torch.tensor([[1.0, 3], [-1, 4]]), head)  # the second lies outside
    torch.testing.assert_close(detector.shape(query.pooled, {**fitted, "theta": theta})[1], torch.zeros(2))
    expected = (1 * 2 + 3 * 9) / 85**0.5 * 1000
    assert detector.score(query, {**fitted, "theta": theta})[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bins", [1, 7, 100])
def test_reference(bins):
    train, test = random_features(2000)
    fitted = fit(OptFS(bins=bins), train)
    ends = fitted["range"].double().numpy()
    np.testing.assert_allclose(ends, np.quantile(train.pooled.numpy(), [0.001, 0.999]), rtol=1e-3, atol=1e-9)
    theta, vanilla, logits = reference(train, test, ends, bins)
    near = 30 if bins == 100 else 3  # entries within 0.05 % of an edge fall into the interval beside it
    np.testing.assert_allclose(fitted["theta"], theta, atol=near)
    scores = OptFS(bins=bins).score(test, fitted)
    assert np.corrcoef(scores, vanilla)[0, 1] > 0.999
    energy = OptFS(vanilla=False, bins=bins).score(test, fitted)
    assert np.corrcoef(energy, logits.max(1))[0, 1] > 0.999  # logits of this size: the energy is the largest one


def test_base_scores_the_shaped_logits():
    train, test = random_features()
    fitted = fit(OptFS(), train)
    logits = test.head(OptFS().shape(test.pooled, fitted))
    torch.testing.assert_close(OptFS(False, base=MaxLogit()).score(test, fitted), logits.amax(1))
    torch.testing.assert_close(OptFS(False).score(test, fitted), Energy().of_logits(logits))


def test_dead_network_and_no_interval():
    train = features(torch.zeros(5, 3))
    assert OptFS().score(train, fit(OptFS(), train)).isfinite().all()
    with pytest.raises(InputError, match="the authors use 100"):
        OptFS(bins=0)


def test_contract():
    check_detector(lambda: OptFS(vanilla=False, bins=20))
