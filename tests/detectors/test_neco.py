import numpy as np
import pytest
import torch

from lightning_ood.detectors.neco import NECO
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fit, fitted_score, given, random_features


def reference(train, test, variance=0.9, dim=None):
    z, x = train.pooled.double().numpy(), test.pooled.double().numpy()
    mean, std = z.mean(0), z.std(0)
    values, vectors = np.linalg.eigh(np.cov(((z - mean) / std).T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    dim = dim or int(np.where(values.cumsum() / values.sum() >= variance)[0][0]) + 1
    h = (x - mean) / std
    inside = np.linalg.norm(h @ vectors[:, :dim], axis=1) / np.linalg.norm(h, axis=1)
    return dim, inside, inside * test.logits.double().numpy().max(1)


def test_worked_example():
    # Standardised training features: (1, 1), (-1, -1), (1, 1), (-1, -1), up to unit 3, which is constant and stays 0.
    # One component, (1, 1, 0) / sqrt 2. The query is h = (2, 1, 2): 3 / sqrt 2 inside, of length 3; largest logit 4.
    train = given(torch.zeros(4, 2), torch.tensor([[4.0, 7, 5], [0, 3, 5], [4, 7, 5], [0, 3, 5]]))
    query = given(torch.tensor([[4.0, 1]]), torch.tensor([[6.0, 7, 7]]))
    assert fitted_score(NECO(use_logit=False), train, query).item() == pytest.approx(0.70710678, rel=1e-6)
    assert fitted_score(NECO(), train, query).item() == pytest.approx(4 * 0.70710678, rel=1e-6)


@pytest.mark.parametrize(("variance", "dim"), [(0.9, None), (0.5, None), (0.9, 1), (0.9, 24)])
def test_reference(variance, dim):
    train, test = random_features()
    count, inside, score = reference(train, test, variance, dim)
    fitted = fit(NECO(variance, dim), train)
    assert NECO().summary(fitted) == {"components": count}
    np.testing.assert_allclose(NECO(variance, dim).score(test, fitted), score, rtol=1e-4)
    np.testing.assert_allclose(NECO(variance, dim, use_logit=False).score(test, fitted), inside, rtol=1e-4)


def test_without_standardisation():
    train, test = random_features()
    z, x = train.pooled.double().numpy(), test.pooled.double().numpy()
    vectors = np.linalg.eigh(np.cov(z.T))[1][:, -5:]
    expected = np.linalg.norm(x @ vectors, axis=1) / np.linalg.norm(x, axis=1)
    scores = fitted_score(NECO(dim=5, use_logit=False, standardize=False), train, test)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize("variance", [0.0, 1.0, -1.0])
def test_variance_out_of_range(variance):
    with pytest.raises(InputError, match=r"write for example 0\.9"):
        NECO(variance)


@pytest.mark.parametrize("dim", [0, 25])
def test_dim_out_of_range(dim):
    with pytest.raises(InputError, match=r"at least 1|write one from 1 to 24"):
        fit(NECO(dim=dim), random_features()[0])


def test_contract():
    check_detector(lambda: NECO(dim=3, use_logit=False, standardize=False), separates=False)
