import math

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nap import NAP, map_prior
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, NetworkInfo

MAP = torch.tensor([[[4.0, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])[None]
SETUP = NetworkInfo(3, 2, maps={"last": torch.Size((3, 2, 2))}, blocks=("last",))
WITH_TOKEN = NetworkInfo(3, 2, attention=(2, 4), maps=SETUP.maps)
ROW = torch.tensor([0.538776, 0.130985, 0.265654, 0.064585])


def of_map(activation: Tensor, logits: Tensor | None = None) -> Features:
    size = len(activation)
    return Features(torch.zeros(size, 2) if logits is None else logits, torch.zeros(size, 3), maps={"last": activation})


def of_attention(attention: Tensor) -> Features:
    return Features(torch.zeros(len(attention), 2), torch.zeros(len(attention), 3), attention=attention)


def ready(detector: NAP, info: NetworkInfo = SETUP) -> NAP:
    detector.setup(info)
    return detector


@pytest.mark.parametrize(("scale", "value"), [(1, 1.416667), (10, 4.683196), (1e3, 5.655350), (1e6, 5.666655)])
def test_values(scale: float, value: float) -> None:
    detector = ready(NAP())
    assert detector.taps == ("last",) and not detector.requires_fit
    assert detector.score(of_map(MAP * scale), {}).item() == pytest.approx(value, abs=1e-5)


def test_constant_and_one_hot_maps() -> None:
    assert map_prior(torch.full((1, 5, 3, 9), 3.0)).item() == pytest.approx(0.5625)
    one_hot = torch.zeros(1, 1, 7, 7)
    one_hot[..., 2, 5] = 49
    assert map_prior(one_hot).item() == pytest.approx(600.25)
    assert map_prior(one_hot, eps=1e-6).item() == pytest.approx(2401, rel=1e-5)


def test_invariants() -> None:
    draw = torch.Generator().manual_seed(0)
    activation = torch.rand(8, 16, 7, 7, generator=draw) * 5
    score = map_prior(activation)
    places = torch.rand(8, 16, 49, generator=draw).argsort(2)
    torch.testing.assert_close(map_prior(activation.flatten(2).gather(2, places)), score)
    torch.testing.assert_close(map_prior(activation[:, torch.randperm(16, generator=draw)]), score)
    torch.testing.assert_close(map_prior(torch.cat([activation, activation])), score.repeat(2))
    assert (score >= 0).all() and (score <= 49**2).all()
    assert map_prior(activation * 0).tolist() == [0.0] * 8


def test_half_precision_is_widened_before_the_square() -> None:
    activation = torch.zeros(1, 1, 32, 32, dtype=torch.float16)
    activation[..., 0, 0] = 60000
    assert map_prior(activation).item() == pytest.approx((60000 / (60000 / 1024 + 1)) ** 2, rel=1e-3)


def test_negative_entries_count_as_zero() -> None:
    signed = torch.tensor([[[-4.0, 2.0]]])  # the mean is -1: the plain ratio divides by zero
    assert map_prior(signed).item() == pytest.approx((2 / (1 + 1)) ** 2)


def test_attention_values() -> None:
    features = of_attention(ROW.expand(1, 2, 4))
    assert ready(NAP(), WITH_TOKEN).score(features, {}).item() == pytest.approx(0.265654)
    assert ready(NAP(self_entry=True), WITH_TOKEN).score(features, {}).item() == pytest.approx(0.538776)


@pytest.mark.parametrize(("reduction", "value"), [("mean", 0.45), ("max", 0.7), ("none", 0.65)])
def test_head_reductions(reduction: str, value: float) -> None:
    heads = torch.tensor([[[0.1, 0.6, 0.2, 0.1], [0.0, 0.2, 0.7, 0.1]]])
    detector = ready(NAP(head_reduction=reduction), WITH_TOKEN)  # type: ignore[arg-type]
    assert detector.score(of_attention(heads), {}).item() == pytest.approx(value)


def test_form_follows_the_network() -> None:
    former = ready(NAP(), WITH_TOKEN)
    assert former.attention and former.taps == () and former.summary({}) == {"form": "attention"}
    assert not ready(NAP(form="map"), WITH_TOKEN).attention
    assert not ready(former).attention and former.taps == ("last",)  # set up again, for another network
    with pytest.raises(InputError, match="class token"):
        ready(NAP(form="attention"))
    with pytest.raises(InputError, match="between 0 and 1"):
        NAP(weight=1.5)


def test_missing_map_is_named_with_what_exists() -> None:
    with pytest.raises(InputError, match=r"'lst'.*last"):
        ready(NAP(tap="lst"))


class Fixed(Detector):
    """Scores every image with a given value."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return self.scores


@pytest.mark.parametrize(("weight", "value"), [(0, 2), (0.25, 2.990698), (0.5, 4.472136), (0.75, 6.687403), (1, 10)])
def test_product_values(weight: float, value: float) -> None:
    peak = torch.zeros(1, 1, 1, 4)
    peak[..., 0] = (eps := 1.0) * math.sqrt(2) / (1 - math.sqrt(2) / 4)  # max / (max / 4 + eps) = sqrt(2): NAP = 2
    detector = ready(NAP(Fixed(torch.tensor([10.0])), weight, eps=eps))
    assert detector.score(of_map(peak), {}).exp().item() == pytest.approx(value, rel=1e-5)


def test_weights_of_one_and_zero_rank_as_the_parts() -> None:
    draw = torch.Generator().manual_seed(0)
    features = of_map(torch.rand(50, 3, 2, 2, generator=draw), torch.randn(50, 4, generator=draw) * 4)
    base, prior = MSP().score(features, {}), ready(NAP()).score(features, {})
    assert torch.equal(ready(NAP(MSP(), 1.0)).score(features, {}).argsort(), base.argsort())
    assert torch.equal(ready(NAP(MSP(), 0.0)).score(features, {}).argsort(), prior.argsort())


def test_product_agrees_with_the_formula() -> None:
    draw = torch.Generator().manual_seed(1)
    head = Head(torch.randn(5, 3, generator=draw), torch.full((5,), 4.0))
    activation = torch.rand(30, 3, 6, 6, generator=draw) * 3
    pooled = activation.mean((2, 3))
    features = Features(head(pooled), pooled, head, maps={"last": activation})
    wide = activation.double().flatten(2)
    prior = (wide.amax(2) / (wide.mean(2) + 1)).square().mean(1)
    logits = pooled.double().clamp(max=1.4) @ head.weight.double().T + head.bias.double()
    energy = logits.logsumexp(1)
    probability = logits.softmax(1).amax(1)
    for base, positive in ((ReAct(threshold=1.4), energy), (ReAct(MSP(), 1.4), probability)):
        score = ready(NAP(base, 0.3), NetworkInfo(3, 5, head, maps=SETUP.maps)).score(features, {})
        torch.testing.assert_close(score.double(), 0.3 * positive.log() + 0.7 * prior.log(), rtol=1e-5, atol=1e-6)


def test_base_is_fitted_inside() -> None:
    draw = torch.Generator().manual_seed(2)
    head = Head(torch.rand(5, 3, generator=draw), torch.ones(5))
    pooled = torch.rand(30, 3, generator=draw)
    features = Features(head(pooled), pooled, head, maps={"last": pooled[:, :, None, None]})
    detector, alone = ready(NAP(DICE(50)), NetworkInfo(3, 5, head, maps=SETUP.maps)), DICE(50)
    alone.setup(NetworkInfo(3, 5, head))
    assert detector.requires_fit
    for each in (detector, alone):
        each.update(features)
    fitted, of_base = detector.compute(), alone.compute()
    assert set(fitted) == {"base.weight", "base.threshold"}
    assert detector.summary(fitted)["base.threshold"] == alone.summary(of_base)["threshold"]
    prior = map_prior(features.maps["last"])
    expected = (alone.score(features, of_base).log() + prior.log()) / 2
    torch.testing.assert_close(detector.score(features, fitted), expected)


class Negative(Energy):
    @property
    def positive(self) -> bool:
        return False


def test_a_base_without_a_positive_form_is_refused() -> None:
    for base in (Negative(), ReAct(Negative(), 1.0)):
        with pytest.raises(InputError, match="positive"):
            ready(NAP(base), NetworkInfo(3, 5, Head(torch.zeros(5, 3), torch.zeros(5)), maps=SETUP.maps))
