import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm, feature_norm
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.features import Features, Head, NetworkInfo

HEAD = Head(torch.eye(2), torch.zeros(2))
SETUP = NetworkInfo(2, 2, HEAD, maps={name: torch.Size((1, 1, 1)) for name in ("a", "b")}, blocks=("a", "b"))


def batch(pooled: Tensor, head: Head = HEAD, **maps: Tensor) -> Features:
    features = Features(head(pooled), pooled, head, {name: value[:, None, None, None] for name, value in maps.items()})
    jigsaw = Features(features.logits, pooled, head, {"a": features.maps["a"], "b": features.maps["b"] / 2})
    return Features(features.logits, pooled, head, features.maps, views={FeatureNorm().jigsaw: jigsaw})


def test_values() -> None:
    """Feature [3, 4] of length 5 gets the length 20 of the block."""
    detector = BlockNorm(MaxLogit(), FeatureNorm(block="b"))
    detector.setup(SETUP)
    features = batch(torch.tensor([[3.0, 4]]), a=torch.tensor([7.0]), b=torch.tensor([20.0]))
    assert not detector.requires_fit and detector.compute() == {}
    torch.testing.assert_close(detector.logits(features, {}), torch.tensor([[12.0, 16]]))
    assert detector.score(features, {}).item() == pytest.approx(16)


def test_the_chosen_block_is_lent() -> None:
    detector = BlockNorm(match=True)
    detector.setup(SETUP)
    train = torch.tensor([[3.0, 4], [6, 8]])
    detector.update(batch(train, a=torch.tensor([1.0, 1]), b=torch.tensor([2.0, 4])))
    fitted = detector.compute()
    assert detector.summary(fitted) == {"norm.block": "b", "norm.ratio.a": 1.0, "norm.ratio.b": 2.0, "scale": 2.5}
    assert detector.extra_forwards == {"fit": 1, "test": 0}
    test = batch(torch.tensor([[0.6, 0.8]]), a=torch.tensor([100.0]), b=torch.tensor([20.0]))
    torch.testing.assert_close(detector.logits(test, fitted), torch.tensor([[30.0, 40]]))
    without = BlockNorm()
    without.setup(SETUP)
    without.update(batch(train, a=torch.tensor([1.0, 1]), b=torch.tensor([2.0, 4])))
    torch.testing.assert_close(without.logits(test, without.compute()), torch.tensor([[12.0, 16]]))


@pytest.mark.parametrize("bias", [True, False])
def test_agrees_with_the_formula(bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    head = Head(torch.randn(4, 6, generator=draw), torch.randn(4, generator=draw))
    pooled, activation = torch.rand(20, 6, generator=draw), torch.randn(20, 5, 3, 3, generator=draw)
    pooled[0] = 0
    detector = BlockNorm(Energy(), FeatureNorm(block="x"), bias=bias)
    detector.setup(NetworkInfo(6, 4, head, maps={"x": torch.Size((5, 3, 3))}))
    score = detector.score(Features(head(pooled), pooled, head, {"x": activation}), {})
    z = pooled.double()
    z = z / z.norm(dim=1, keepdim=True).clamp_min(1e-30) * feature_norm(activation).double()[:, None]
    expected = (z @ head.weight.double().T + (head.bias.double() if bias else 0)).exp().sum(1).log()
    torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=1e-5)
