import pytest
import torch
import torch.nn.functional as F

from lightning_ood.detectors.gradnorm import GradNorm
from tests.helpers.toys import HEAD, IMAGE, features, given, random_features


def test_worked_example():
    assert GradNorm().score(features(IMAGE), {}).item() == pytest.approx(2.079527, abs=1e-6)


def test_zero_where_the_softmax_is_uniform():
    assert GradNorm().score(given(torch.zeros(1, 4)), {}).item() == 0


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_agrees_with_autograd(temperature):
    _, test = random_features()
    scores = GradNorm(temperature).score(test, {})
    for z, score in zip(test.pooled.double(), scores, strict=True):
        weight = test.head.weight.double().requires_grad_()
        log_probs = (F.linear(z, weight, test.head.bias.double()) / temperature).log_softmax(0)
        uniform = torch.full_like(log_probs, 1 / len(log_probs))
        F.kl_div(log_probs, uniform, reduction="sum").backward()
        assert score.item() == pytest.approx(weight.grad.abs().sum().item(), rel=1e-5)


def test_signed_features_count_by_magnitude():
    logits = HEAD(IMAGE)
    signed = GradNorm().score(given(logits, IMAGE * torch.tensor([1.0, -1, 1])), {})
    torch.testing.assert_close(signed, GradNorm().score(given(logits, IMAGE), {}))
