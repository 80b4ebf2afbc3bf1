import numpy as np
import pytest
import torch

from lightning_ood.detectors.cop import CoP, CoRP
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fit, fitted_score, given, random_features


def reference(train, test, variance):
    """Reconstruction errors as in the authors' code, from rows that are mapped already."""
    center = train.mean(0)
    u, s, _ = np.linalg.svd((train - center).T @ (train - center))
    q = next(i for i in range(1, len(s) + 1) if s[:i].sum() / s.sum() >= variance)
    x = test - center
    return q, np.linalg.norm(x - x @ u[:, :q] @ u[:, :q].T, axis=1)


def directions(f):
    z = f.pooled.double().numpy()
    return z / np.linalg.norm(z, axis=1)[:, None]


def test_worked_example():
    # Directions (1, 0, 0), (0, 1, 0) and again, of any length: mean (.5, .5, 0), one component (1, -1, 0) / sqrt 2.
    train = given(torch.zeros(4, 2), torch.tensor([[2.0, 0, 0], [0, 1, 0], [5, 0, 0], [0, 3, 0]]))
    query = given(torch.zeros(1, 2), torch.tensor([[0.0, 3, 4]]))
    # (0, .6, .8) less the mean is (-.5, .1, .8), of which (-.2, -.2, .8) lies outside.
    assert fitted_score(CoP(0.9), train, query).item() == pytest.approx(-(0.72**0.5), rel=1e-5)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_reference(variance):
    train, test = random_features()
    q, error = reference(directions(train), directions(test), variance)
    fitted = fit(CoP(variance), train)
    assert CoP().summary(fitted) == {"components": q}
    np.testing.assert_allclose(CoP(variance).score(test, fitted), -error, rtol=1e-4)


def test_random_features_reference():
    train, test = random_features()
    fitted = fit(CoRP(0.8, 3.0, 64), train)
    v, u = fitted["projection"].double().numpy(), fitted["phase"].double().numpy()
    assert v.shape == (64, 24) and v.std() == pytest.approx(6**0.5, rel=0.05)
    assert u.min() >= 0 and 6 < u.max() < 2 * np.pi
    mapped = [np.sqrt(2 / 64) * np.cos(directions(f) @ v.T + u) for f in (train, test)]
    q, error = reference(*mapped, 0.8)
    assert CoRP().summary(fitted) == {"components": q}
    np.testing.assert_allclose(CoRP(0.8, 3.0, 64).score(test, fitted), -error, rtol=1e-4)


def test_random_features_stand_for_the_kernel():
    train, _ = random_features(20)
    detector = CoRP(gamma=2.0, size=20_000)
    fitted_on = directions(train)
    draw = torch.Generator().manual_seed(0)
    v, u = 2 * torch.randn(20_000, 24, generator=draw), 2 * torch.pi * torch.rand(20_000, generator=draw)
    rows = detector._random_features(train, v, u).double().numpy()
    squared = ((fitted_on[:, None] - fitted_on) ** 2).sum(2)
    np.testing.assert_allclose(rows @ rows.T, np.exp(-2 * squared), atol=0.03)


def test_seed_decides_on_the_random_features():
    train, test = random_features()
    first, again, other = (fitted_score(CoRP(size=32, seed=seed), train, test) for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)


def test_out_of_range():
    for kind in (CoP, CoRP):
        with pytest.raises(InputError, match=r"write for example 0\.9"):
            kind(variance=1.0)
    for arguments in ({"gamma": 0.0}, {"size": 1}):
        with pytest.raises(InputError, match=r"gamma=0.0 is not|size=[01] is too small"):
            CoRP(**arguments)


def test_contract():
    check_detector(lambda: CoRP(0.5, 3.0, 100), permutable=False)
