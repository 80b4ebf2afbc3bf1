import numpy as np
import pytest
import torch

from lightning_ood.detectors.base import LogitScore
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.react import ReAct
from lightning_ood.features import Features, Head, Setup

HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.tensor([0.5, -0.5]))
SETUP = Setup(3, 2, HEAD)


def features(pooled: torch.Tensor) -> Features:
    return Features(HEAD(pooled), pooled, HEAD)


X = features(torch.tensor([[3.0, 1, 0.5]]))


@pytest.mark.parametrize(
    ("base", "threshold", "value"),
    [(Energy(), 1e6, 3.313262), (Energy(), 1.0, 2.313262), (MSP(), 1.0, -0.313262)],
)
def test_values(base: LogitScore, threshold: float, value: float) -> None:
    detector = ReAct(base, threshold)
    assert detector.score(X, {}).item() == pytest.approx(value, abs=1e-6)
    assert not detector.fits and detector.compute() == {}
    assert detector.summary({}) == {"threshold": threshold}


def test_clipping_turns_the_prediction() -> None:
    assert ReAct(threshold=1.0).logits(X, {}).tolist() == [[1.0, 2.0]]


def test_beyond_the_threshold_nothing_counts() -> None:
    detector = ReAct(threshold=0.8)
    a, b = features(torch.tensor([[0.8, 5.0, 0.3]])), features(torch.tensor([[90.0, 0.8, 0.3]]))
    assert torch.equal(detector.score(a, {}), detector.score(b, {}))


@pytest.mark.parametrize(("percentile", "value"), [(90, 9.1), (95, 9.55)])
def test_percentile_of_one_to_ten(percentile: float, value: float) -> None:
    head = Head(torch.ones(2, 1), torch.zeros(2))
    detector = ReAct(percentile=percentile)
    detector.setup(Setup(1, 2, head))
    pooled = torch.arange(1.0, 11)[:, None]
    detector.update(Features(head(pooled), pooled, head))
    fit = detector.compute()
    assert fit["threshold"].item() == pytest.approx(value, rel=5e-4)
    assert detector.summary(fit) == {"threshold": fit["threshold"].item(), "percentile": percentile}


def test_found_threshold_and_score_agree_with_numpy() -> None:
    draw = torch.Generator().manual_seed(0)
    pooled = torch.randn(3000, 3, generator=draw).exp()
    detector = ReAct(percentile=90)
    detector.setup(SETUP)
    for batch in pooled.split(700):
        detector.update(features(batch))
    fit = detector.compute()
    exact = np.percentile(pooled.double().numpy(), 90)
    assert fit["threshold"].item() == pytest.approx(exact, rel=1e-3)
    logits = pooled.double().clamp(max=exact) @ HEAD.weight.double().T + HEAD.bias.double()
    score = detector.score(features(pooled), fit).double()
    torch.testing.assert_close(score, logits.logsumexp(1), rtol=2e-3, atol=2e-3)
