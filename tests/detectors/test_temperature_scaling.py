import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.temperature_scaling import TemperatureScaling
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fit, given, random_features


def test_worked_example():
    # Two classes with logits (1, 0), right three times of four: p = 3/4 at a difference of log 3, T = 1 / log 3.
    train = given(torch.tensor([[1.0, 0]]).repeat(4, 1), labels=torch.tensor([0, 0, 0, 1]))
    fitted = fit(TemperatureScaling(), train)
    assert fitted["temperature"].item() == pytest.approx(1 / np.log(3), rel=1e-3)
    score = TemperatureScaling().score(given(torch.tensor([[2.0, 0]])), fitted).item()
    assert score == pytest.approx(np.log(9 / 10), rel=3e-3)


def test_reference():
    train, test = random_features(1000)
    logits, y = 0.7 * train.logits.double(), torch.where(torch.arange(1000) % 5 == 0, 0, train.labels)

    def nll(log_t):
        return -(logits / np.exp(log_t)).log_softmax(1)[torch.arange(1000), y].mean().item()

    best = np.exp(minimize_scalar(nll, bounds=(-2.3, 2.3), method="bounded", options={"xatol": 1e-8}).x)
    fitted = fit(TemperatureScaling(), given(logits.float(), labels=y))
    assert 0.2 < best < 9
    assert fitted["temperature"].item() == pytest.approx(best, rel=2e-3)
    expected = (test.logits / fitted["temperature"]).log_softmax(1).amax(1)
    torch.testing.assert_close(TemperatureScaling().score(test, fitted), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(TemperatureScaling(1.0).score(test, {}), MSP().score(test, {}))


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], 0.1), ([1, 0], 10.0)])
def test_ends_of_the_range(labels, expected):
    train = given(torch.tensor([[3.0, 0], [0, 3]]), labels=torch.tensor(labels))  # all right, or all wrong
    assert fit(TemperatureScaling(), train)["temperature"].item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_out_of_range(temperature):
    with pytest.raises(InputError, match="null to fit it"):
        TemperatureScaling(temperature)


def test_contract():
    check_detector(lambda: TemperatureScaling(2.0))
