import numpy as np
import torch

from lightning_ood.detectors.pnml import PNML
from lightning_ood.features import Features, Head
from tests.helpers.toys import fit, fitted_score, random_features


def test_worked_example():
    # Y^T Y = diag(3, 1): the direction (0, 1) has x = 1 and g = 1/2, (1, 0) has x = 1/3 and g = 1/4.
    head = Head(torch.tensor([[np.log(3.0), 0], [0, 0]], dtype=torch.float32), torch.zeros(2))
    pooled = torch.tensor([[1.0, 0], [2, 0], [0.5, 0], [0, 7]])
    train = Features(head(pooled), pooled, head, index=torch.arange(4))
    query = torch.tensor([[0.0, 3], [5, 0]])
    score = PNML().score(Features(head(query), query, head), fit(PNML(), train))
    even = 2 * 0.5 / (0.5 + 0.5 * 0.5**0.5)  # p = (1/2, 1/2)
    sure = sum(p / (p + (1 - p) * p**0.25) for p in (0.75, 0.25))
    np.testing.assert_allclose(score, [-np.log(even), -np.log(sure)], rtol=1e-5)


def test_reference():
    train, test = random_features()
    y, q = (f.pooled.double().numpy() for f in (train, test))
    y, q = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (y, q))
    inverse = np.linalg.pinv(y.T @ y)
    x = np.einsum("bi,ij,bj->b", q, inverse, q)[:, None]
    logits = q @ train.head.weight.double().numpy().T + train.head.bias.double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log((p / (p + (1 - p) * p ** (x / (1 + x)))).sum(1))
    np.testing.assert_allclose(fitted_score(PNML(), train, test), expected, rtol=1e-3, atol=1e-5)


def test_never_below_the_regret_of_a_guess():
    train, test = random_features()
    score = fitted_score(PNML(), train, test)
    assert (score <= 0).all() and (score >= -np.log(6) - 1e-6).all()
