import numpy as np
import pytest
import torch

from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.msp import MSP
from lightning_ood.features import Features, Head, NetworkInfo

HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.tensor([0.5, -0.5]))


def features(pooled: torch.Tensor, head: Head = HEAD) -> Features:
    return Features(head(pooled), pooled, head)


def fitted(detector: DICE, pooled: torch.Tensor, head: Head = HEAD) -> dict[str, torch.Tensor]:
    detector.setup(NetworkInfo(head.num_features, head.num_classes, head))
    detector.update(features(pooled, head))
    return detector.compute()


def test_values() -> None:
    detector = DICE(50)
    fit = fitted(detector, torch.tensor([[0.0, 3, 2], [2, 1, 0]]))  # mean [1, 2, 1]
    assert fit["threshold"].item() == 0.5
    assert fit["weight"].tolist() == [[1, 0, 0], [0, 2, 1]]
    x = features(torch.tensor([[3.0, 1, 0.5]]))
    assert detector.logits(x, fit).tolist() == [[3.5, 2.0]]
    assert detector.score(x, fit).item() == pytest.approx(3.701413, abs=1e-6)
    assert detector.summary(fit) == {"threshold": 0.5, "kept": 0.5}


def test_zero_percent_drops_the_smallest_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    head = Head(torch.randn(4, 9, generator=draw), torch.zeros(4))
    pooled = torch.rand(50, 9, generator=draw)
    weight = fitted(DICE(0), pooled, head)["weight"]
    assert (weight == 0).nonzero().tolist() == [list(divmod(int((head.weight * pooled.mean(0)).argmin()), 9))]


def test_agrees_with_the_formula() -> None:
    draw = torch.Generator().manual_seed(1)
    head = Head(torch.randn(10, 33, generator=draw), torch.randn(10, generator=draw))
    train, test = torch.rand(200, 33, generator=draw), torch.rand(40, 33, generator=draw)
    detector = DICE(85, MSP())
    scores = detector.score(features(test, head), fitted(detector, train, head))
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    contribution = weight * train.double().numpy().mean(0)
    logits = test.double().numpy() @ (weight * (contribution > np.percentile(contribution, 85))).T + bias
    expected = torch.from_numpy(logits).log_softmax(1).amax(1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)
