import numpy as np
import pytest
import torch

from lightning_ood.detectors.entropy import Entropy
from lightning_ood.detectors.gen import GEN
from lightning_ood.errors import InputError

P = torch.tensor([[0.7, 0.2, 0.1]]).log()


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(("gamma", "top", "expected"), [(0.1, 3, -2.474060), (0.1, 2, -1.688057), (1, 3, -0.46)])
def test_worked_example_gen(gamma, top, expected):
    assert GEN(gamma, top).of_logits(P).item() == pytest.approx(expected, abs=1e-6)


def test_gen_is_smallest_for_the_uniform():
    assert GEN().of_logits(torch.zeros(1, 3)).item() == pytest.approx(-2.581071, abs=1e-6)


def test_worked_example_entropy():
    expected = 0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1)
    assert Entropy().of_logits(P).item() == pytest.approx(expected, rel=1e-6)
    assert Entropy().of_logits(torch.zeros(1, 7)).item() == pytest.approx(-np.log(7), rel=1e-6)


def test_reference():
    logits = 4 * torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    p = softmax(logits.double().numpy())
    np.testing.assert_allclose(Entropy().of_logits(logits), (p * np.log(p)).sum(1), rtol=1e-5)
    for top in (1, 5, 12, 100):
        largest = -np.sort(-p, 1)[:, :top]
        expected = -(largest**0.1 * (1 - largest) ** 0.1).sum(1)
        np.testing.assert_allclose(GEN(0.1, top).of_logits(logits), expected, rtol=1e-5)


@pytest.mark.parametrize("score", [GEN(), Entropy()])
def test_saturated_softmax_keeps_its_order(score):
    logits = torch.zeros(4, 3)
    logits[:, 0] = torch.tensor([18.0, 20, 25, 30])  # float32 softmax: 1.0 for all
    scores = score.of_logits(logits)
    assert (scores.diff() > 0).all()
    extreme = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0, 0]])
    assert score.of_logits(extreme).isfinite().all()
    torch.testing.assert_close(score.of_logits(logits + 100), scores)


def test_bad_arguments_are_refused():
    for arguments in ({"gamma": 0.0}, {"top": 0}):
        with pytest.raises(InputError, match="have to be positive"):
            GEN(**arguments)
