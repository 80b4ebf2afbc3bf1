"""The normalised feature of MDS, RMDS, Residual and ViM (Mahalanobis++)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.residual import Residual
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.detectors.vim import ViM
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing import check_detector
from tests.helpers.toys import features, fit, fitted_score, given, random_features, setup_for


def divided(f, power):
    """The batch with features that were normalised before, in float64."""
    z = f.pooled.double()
    return replace(f, pooled=(z / z.norm(dim=1, keepdim=True) ** power).float())


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", [MDS, RMDS])
def test_equals_the_raw_detector_on_normalised_features(kind, power):
    train, test = random_features()
    expected = fitted_score(kind(), divided(train, power), divided(test, power))
    torch.testing.assert_close(fitted_score(kind(power), train, test), expected, rtol=1e-4, atol=1e-3)


def test_mahalanobis_plus_plus_worked_example():
    # Directions of the classes: (1, 0), (.6, .8) and (0, 1), (-.8, .6), at any length.
    # Means (.8, .4) and (-.4, .8); within-class covariance [[.1, -.08 + .08], [0, .1]] = diag(.1, .1).
    train = torch.tensor([[2.0, 0], [3, 4], [0, 7], [-8, 6]])
    query = torch.tensor([[5.0, 0]])  # (1, 0): |(.2, -.4)|^2 / .1 = 2
    batch = given(torch.zeros(4, 2), train, torch.tensor([0, 0, 1, 1]))
    assert fitted_score(MDS(1.0), batch, given(torch.zeros(1, 2), query)).item() == pytest.approx(-2.0, rel=1e-5)


@pytest.mark.parametrize("kind", [MDS, RMDS, Residual])
def test_length_does_not_matter(kind):
    train, test = random_features()
    longer = replace(test, pooled=test.pooled * torch.linspace(0.1, 9, len(test))[:, None])
    fitted = fit(kind(power=1.0), train)
    torch.testing.assert_close(
        kind(power=1.0).score(longer, fitted), kind(power=1.0).score(test, fitted), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_residual_and_vim_reference(power):
    train, test = random_features()
    unit, probe = (divided(f, power).pooled.double().numpy() for f in (train, test))
    _, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    residual = np.linalg.norm(probe @ vectors[:, :12], axis=1)
    np.testing.assert_allclose(fitted_score(Residual(power=power), train, test), -residual, rtol=1e-4)
    alpha = train.logits.double().numpy().max(1).mean() / np.linalg.norm(unit @ vectors[:, :12], axis=1).mean()
    expected = test.logits.double().logsumexp(1).numpy() - alpha * residual
    np.testing.assert_allclose(fitted_score(ViM(power=power), train, test), expected, rtol=1e-4, atol=1e-4)


def test_raw_and_normalised_features_share_nothing():
    train, test = random_features()
    head = Head(train.head.weight, train.head.bias)
    train, test = features(train.pooled, head, train.labels), features(test.pooled, head)
    made = {"raw": MDS(), "unit": MDS(1.0), "half": MDS(0.5), "relative": RMDS(1.0), "residual": Residual(power=1.0)}
    alone = {name: fitted_score(detector, train, test) for name, detector in made.items()}
    suite = DetectorSuite({name: type(d)(power=d.power) for name, d in made.items()})
    suite.setup(setup_for(train))
    for start in range(0, len(train), 37):
        suite.update(train.select(slice(start, start + 37)))
    assert suite.compute() == {}
    for (name, expected), scores in zip(alone.items(), suite.score(test).unbind(1), strict=True):
        torch.testing.assert_close(scores.float(), expected, rtol=1e-5, atol=1e-4, msg=name)
    shared = suite.detectors["relative"].moments.statistic is suite.detectors["unit"].moments.statistic
    assert shared and suite.detectors["raw"].moments.statistic is not suite.detectors["unit"].moments.statistic


@pytest.mark.parametrize("kind", [MDS, RMDS, Residual, ViM])
@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_power_out_of_range_is_refused(kind, power):
    with pytest.raises(InputError, match=r"write 0 for the raw feature or 1 for its direction"):
        kind(power=power)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("kind", [MDS, RMDS, Residual, ViM])
def test_contract(kind, power):
    check_detector(lambda: kind(power=power), separates=False)
