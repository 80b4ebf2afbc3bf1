import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from lightning_ood.detectors.gmm import GMM, fit_mixture, start
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fit, fitted_score, given, random_features


def test_one_component_is_a_global_mahalanobis_distance():
    train, test = random_features()
    z, x = train.pooled.double().numpy(), test.pooled.double().numpy()
    difference = x - z.mean(0)
    expected = -0.5 * np.einsum("bi,ij,bj->b", difference, np.linalg.inv(np.cov(z.T, bias=True)), difference)
    np.testing.assert_allclose(fitted_score(GMM(1, variance=1.0), train, test), expected, rtol=1e-3)


def test_agrees_with_scikit_learn_from_the_same_start():
    train, _ = random_features()
    rows = train.pooled[:, :6].double()
    means = start(rows, 3, torch.Generator().manual_seed(0))
    weights, means, factor = fit_mixture(rows, means, 500)
    # scikit-learn continues from the result: one step changes nothing.
    theirs = GaussianMixture(
        3, covariance_type="tied", weights_init=weights, means_init=means, precisions_init=factor @ factor.T, max_iter=1
    )
    with pytest.warns(UserWarning, match="converge"):
        theirs.fit(rows)
    np.testing.assert_allclose(theirs.means_, means, atol=0.05)
    np.testing.assert_allclose(theirs.weights_, weights, atol=0.02)
    best = max(GaussianMixture(3, covariance_type="tied", random_state=i).fit(rows).score(rows) for i in range(3))
    logs = weights.log() - torch.cdist(rows @ factor, means @ factor).square() / 2
    ours = (logs.logsumexp(1) + factor.square().sum(0).log().sum() / 2 - 3 * np.log(2 * np.pi)).mean()
    assert ours > best - 0.1


def test_values_of_two_clusters():
    # Two clusters of the corners (+-1, 0), (0, +-1) around (-10, 0) and (10, 0): S = diag(1/2, 1/2), weights 1/2.
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    pooled = torch.cat([corners - torch.tensor([10.0, 0]), corners + torch.tensor([10.0, 0])])
    train = given(torch.zeros(8, 2), pooled)
    query = given(torch.zeros(2, 2), torch.tensor([[10.0, 0], [10, 3]]))
    score = fitted_score(GMM(2, variance=1.0), train, query)
    np.testing.assert_allclose(score, [np.log(0.5), np.log(0.5) - 9], rtol=1e-4)


def test_power_divides_by_the_length():
    train, test = random_features()
    detector = GMM(3, power=1.0)
    fitted = fit(detector, train)
    longer = given(test.logits, test.pooled * 7)
    torch.testing.assert_close(detector.score(longer, fitted), detector.score(test, fitted), rtol=1e-3, atol=1e-3)


def test_refusals():
    for arguments in ({"components": 0}, {"variance": 0}, {"variance": 1.1}, {"power": -1}, {"iterations": 0}):
        with pytest.raises(InputError):
            GMM(**arguments)
    with pytest.raises(InputError, match="4 components"):
        fit(GMM(4), given(torch.zeros(3, 2), torch.rand(3, 2)))


def test_contract():
    check_detector(lambda: GMM(4, power=1.0), separates=False)
