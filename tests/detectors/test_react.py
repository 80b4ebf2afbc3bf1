import math

import numpy as np
import pytest
import torch

from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.gen import GEN
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.features import Features, Head, NetworkInfo

HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.tensor([0.5, -0.5]))
SETUP = NetworkInfo(3, 2, HEAD)


def features(pooled: torch.Tensor) -> Features:
    return Features(HEAD(pooled), pooled, HEAD)


X = features(torch.tensor([[3.0, 1, 0.5]]))


@pytest.mark.parametrize(
    ("base", "threshold", "value"),
    [
        (Energy(), 1e6, 3.313262),
        (Energy(), 1.0, 2.313262),
        (MSP(), 1.0, math.log(0.731059)),
        (MaxLogit(), 1.0, 2.0),
        (GEN(gamma=1.0), 1.0, -2 * 0.731059 * 0.268941),
        (ODIN(temperature=1.0), 1.0, 1.0),  # the log-odds of two classes: the difference of their logits
    ],
)
def test_values(base: LogitScore, threshold: float, value: float) -> None:
    detector = ReAct(base, threshold)
    assert detector.score(X, {}).item() == pytest.approx(value, abs=2e-6)
    assert not detector.requires_fit and detector.compute() == {}
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
    detector.setup(NetworkInfo(1, 2, head))
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


HEAVY = {
    "pareto": lambda draw: draw.pareto(0.5, (400, 25)),
    "log-normal": lambda draw: draw.lognormal(0, 4, (400, 25)),
    "mostly zero": lambda draw: draw.lognormal(-3, 3, (400, 25)) * (draw.random((400, 25)) < 0.15),
    "cauchy": lambda draw: draw.standard_cauchy((400, 25)) * 1e3,
}


@pytest.mark.parametrize("percentile", [85, 90, 95, 99, 99.9])
@pytest.mark.parametrize("kind", HEAVY)
def test_threshold_is_within_a_tenth_of_a_percent_on_heavy_tails(kind: str, percentile: float) -> None:
    """Half a bin of the sketch; where numpy interpolates between two far entries, so does the sketch."""
    values = torch.from_numpy(HEAVY[kind](np.random.default_rng(0))).float()
    head = Head(torch.ones(2, 25), torch.zeros(2))
    first, second = (ReAct(percentile=percentile) for _ in range(2))
    for detector, share in ((first, values[:150]), (second, values[150:])):
        detector.setup(NetworkInfo(25, 2, head))
        for batch in share.split(64):
            detector.update(Features(head(batch), batch, head))
    first.merge_state(second)
    fitted = first.compute()
    exact = float(np.percentile(values.double().numpy(), percentile))
    assert fitted["threshold"].item() == pytest.approx(exact, rel=1e-3, abs=1e-12)
    assert first.summary(fitted) == {"threshold": fitted["threshold"].item(), "percentile": percentile}
