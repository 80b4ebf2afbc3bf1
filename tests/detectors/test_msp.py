import math

import pytest
import torch

from lightning_ood.detectors.msp import MSP
from lightning_ood.features import Features

LOGITS = torch.tensor([[3.0, 2.0]])


def test_value() -> None:
    assert MSP().of_logits(LOGITS).exp().item() == pytest.approx(0.731059, abs=1e-6)


def test_is_the_log_of_the_largest_probability() -> None:
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 5
    torch.testing.assert_close(
        MSP().of_logits(logits).double(), logits.double().softmax(1).amax(1).log(), rtol=1e-5, atol=1e-12
    )
    torch.testing.assert_close(MSP().of_logits(logits + 3), MSP().of_logits(logits), rtol=1e-4, atol=1e-5)


def test_confident_images_do_not_tie() -> None:
    logits = torch.tensor([[40.0, 0.0], [50.0, 0.0], [80.0, 0.0]])
    assert logits.softmax(1).amax(1).unique().numel() == 1  # what the plain form does to them
    scores = MSP().of_logits(logits)
    assert (scores.diff() > 0).all()
    assert scores[1].item() == pytest.approx(-math.exp(-50), rel=1e-5)


def test_one_class_and_equal_logits() -> None:
    assert MSP().of_logits(torch.tensor([[5.0]])).item() == 0
    assert MSP().of_logits(torch.zeros(1, 4)).item() == pytest.approx(-math.log(4))


def test_in_a_product_it_is_its_own_logarithm() -> None:
    features = Features(LOGITS, torch.zeros(1, 3))
    assert torch.equal(MSP().log_score(features, {}), MSP().score(features, {}))
