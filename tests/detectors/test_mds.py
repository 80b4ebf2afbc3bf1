import numpy as np
import pytest
import torch

from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.errors import InputError
from lightning_ood.statistics.moments import shrunk
from tests.helpers.toys import features, fit, fitted_score, given, random_features

SQUARE = torch.tensor([[1.0, 1], [3, 1], [1, 3], [3, 3]])
TRAIN = given(torch.zeros(8, 2), torch.cat([SQUARE, SQUARE + torch.tensor([6.0, 0])]), torch.arange(8) // 4)


def reference(train, test):
    """d_c and d_0 of every test image, by explicit inverses."""
    z, y, x = train.pooled.double().numpy(), train.labels.numpy(), test.pooled.double().numpy()
    means = np.stack([z[y == c].mean(0) for c in np.unique(y)])
    within = z - means[np.searchsorted(np.unique(y), y)]
    inverse = np.linalg.pinv(within.T @ within / len(z), rcond=1e-10, hermitian=True)
    inverse0 = np.linalg.pinv(np.cov(z.T, bias=True), rcond=1e-10, hermitian=True)
    d = np.stack([np.einsum("bi,ij,bj->b", x - m, inverse, x - m) for m in means], 1)
    return d, np.einsum("bi,ij,bj->b", x - z.mean(0), inverse0, x - z.mean(0))


def test_worked_example():
    query = given(torch.zeros(1, 2), torch.tensor([[2.0, 4]]))
    assert fitted_score(MDS(), TRAIN, query).item() == pytest.approx(-4.0, rel=1e-6)
    assert fitted_score(RMDS(), TRAIN, query).item() == pytest.approx(0.9, rel=1e-6)


def test_reference():
    train, test = random_features()
    d, d0 = reference(train, test)
    np.testing.assert_allclose(fitted_score(MDS(), train, test), -d.min(1), rtol=1e-5)
    np.testing.assert_allclose(fitted_score(RMDS(), train, test), d0 - d.min(1), rtol=1e-5)


def test_dead_and_dependent_units_are_not_seen():
    train, test = random_features()
    for detector in (MDS(), RMDS()):
        expected = fitted_score(detector, train, test)
        # A dead unit, and a copy of another one: the pseudo-inverse is that of the units that carry something.
        more = [torch.cat([f.pooled, torch.zeros(len(f), 1), f.pooled[:, :1]], 1) for f in (train, test)]
        wide = given(train.logits, more[0], train.labels), given(test.logits, more[1])
        torch.testing.assert_close(fitted_score(detector, *wide), expected, rtol=1e-4, atol=1e-3)
        alive = given(test.logits, more[1] + torch.tensor([0.0] * 24 + [9.0, 0]))
        torch.testing.assert_close(fitted_score(detector, wide[0], alive), expected, rtol=1e-4, atol=1e-3)


def test_far_from_the_origin():
    train, test = random_features()
    for detector in (MDS(), RMDS()):
        expected = fitted_score(detector, train, test)
        moved = [given(f.logits, f.pooled + 64, f.labels) for f in (train, test)]
        torch.testing.assert_close(fitted_score(detector, *moved), expected, rtol=1e-4, atol=1e-3)


def test_empty_class_takes_no_part():
    train, test = random_features()
    kept = train.select(train.labels != 2)
    d, _ = reference(kept, test)
    np.testing.assert_allclose(fitted_score(MDS(), kept, test), -d.min(1), rtol=1e-5)


@pytest.mark.parametrize("detector", [MDS(), RMDS()])
def test_one_unit_and_one_image(detector):
    # Variances 1 within and 10 in all, mean 5, as the first coordinate of the worked example.
    train = given(TRAIN.logits, TRAIN.pooled[:, :1], TRAIN.labels)
    query = given(torch.zeros(1, 2), torch.tensor([[4.0]]))
    expected = -4.0 if type(detector) is MDS else 0.1 - 4.0
    assert fitted_score(detector, train, query).item() == pytest.approx(expected, rel=1e-6)


def test_needs_labels():
    with pytest.raises(InputError, match="labels"):
        fit(MDS(), features(torch.rand(4, 3)))


def oas(covariance, n):
    """Oracle approximating shrinkage, from the formula (Chen et al. 2010, eq. 23)."""
    p, trace, square = len(covariance), np.trace(covariance), np.trace(covariance @ covariance)
    share = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    return min(share, 1) if square > trace**2 / p else 1


@pytest.mark.parametrize("shrinkage", ["oas", 0.2, 1.0])
@pytest.mark.parametrize("n", [20, 300])
def test_shrinkage(shrinkage, n):
    """Distances under shrunk covariances, with fewer images than units and with more."""
    train, test = random_features(n=n)
    z, y, x = train.pooled.double().numpy(), train.labels.numpy(), test.pooled.double().numpy()
    classes = np.unique(y)
    means = np.stack([z[y == c].mean(0) for c in classes])
    within = z - means[np.searchsorted(classes, y)]

    def inverse(covariance, freedom):
        share = oas(covariance, freedom) if shrinkage == "oas" else shrinkage
        return np.linalg.inv((1 - share) * covariance + share * np.trace(covariance) / 24 * np.eye(24))

    near = inverse(within.T @ within / n, n - len(classes))
    far = inverse(np.cov(z.T, bias=True), n - 1)
    d = np.stack([np.einsum("bi,ij,bj->b", x - m, near, x - m) for m in means], 1).min(1)
    d0 = np.einsum("bi,ij,bj->b", x - z.mean(0), far, x - z.mean(0))
    np.testing.assert_allclose(fitted_score(MDS(shrinkage=shrinkage), train, test), -d, rtol=1e-5)
    np.testing.assert_allclose(fitted_score(RMDS(shrinkage=shrinkage), train, test), d0 - d, rtol=1e-4, atol=1e-3)


def test_oas_agrees_with_scikit_learn():
    """Which leaves out the 2 / D of the formula."""
    from sklearn.covariance import oas as theirs

    rows = np.random.default_rng(0).normal(size=(50, 200)) * np.linspace(0.5, 2, 200)
    covariance = np.cov(rows.T, bias=True)
    found = shrunk(torch.from_numpy(covariance), "oas", torch.tensor(50.0, dtype=torch.float64), 0).numpy()
    np.testing.assert_allclose(found, theirs(rows)[0], rtol=0.01, atol=2e-3)


def test_shrinkage_of_what_does_not_vary():
    """One image a class: no covariance, so nothing to shrink towards; scores stay finite."""
    train = given(torch.zeros(4, 4), SQUARE, torch.arange(4))
    assert fitted_score(MDS(shrinkage="oas"), train, train).tolist() == [0.0] * 4
    with pytest.raises(InputError, match="shrinkage=ledoit"):
        MDS(shrinkage="ledoit")
