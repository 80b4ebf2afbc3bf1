"""ODIN: worked values, agreement with plain autograd alone and after every shaping, and what it costs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.ash import ASH
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.feature_norm import FeatureNorm, feature_norm
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.detectors.scale import SCALE
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, NetworkInfo, Reads

STD = (0.2, 0.25, 0.5)
HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.tensor([0.5, -0.5]))


def probability(score: Tensor, classes: int) -> Tensor:
    """Converts a score back to the largest softmax probability."""
    return (score.double() - torch.tensor(classes - 1.0).double().log()).sigmoid()


class Linear(nn.Module):
    """A linear classifier of three pixels, one per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.Identity(), nn.Linear(3, 2)
        self.fc.weight.data, self.fc.bias.data = HEAD.weight.clone(), HEAD.bias.clone()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(images).mean((2, 3)))


def test_values_of_a_linear_network() -> None:
    backbone = Backbone(Linear().eval(), (1, 1), std=STD)
    image = torch.tensor([3.0, 1, 0.5]).view(1, 3, 1, 1)
    plain, stepping = ODIN(), ODIN(epsilon=0.0014, in_pixels=False)
    for detector in (plain, stepping):
        detector.setup(backbone.info())
    steps = stepping.perturbations({})
    backbone.configure(Reads(perturbations=tuple(steps)))
    features = backbone(image)
    stepped = features.views[steps[0]]
    torch.testing.assert_close(stepped.pooled, torch.tensor([[3.0014, 0.9986, 0.4986]]))
    assert probability(plain.score(features, {}), 2).item() == pytest.approx(0.500250000, abs=2e-9)
    assert probability(stepping.score(features, {}), 2).item() == pytest.approx(0.500251750, abs=2e-9)


def test_gradient_of_the_loss() -> None:
    pooled = torch.tensor([[3.0, 1, 0.5]], requires_grad=True)
    step = ODIN(epsilon=0.1).perturbations({})[0]
    gradient = torch.autograd.grad(step.loss(Features(HEAD(pooled), pooled)).sum(), pooled)[0]
    expected = torch.tensor([[-0.00049975, 0.0009995, 0.0009995]])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-9)


def test_a_gradient_of_zero_counts_as_positive() -> None:
    step = ODIN(epsilon=0.5).perturbations({})[0]
    stepped = step(torch.zeros(1, 3, 1, 1), torch.tensor([0.0, -1, 1]).view(1, 3, 1, 1))
    assert stepped.flatten().tolist() == [-0.5, 0.5, -0.5]


def test_only_the_entry_of_the_largest_gradient_moves() -> None:
    step = ODIN(epsilon=0.5, in_pixels=False, entries=2).perturbations({})[0]
    moved = step(torch.ones(1, 3, 1, 2), torch.tensor([0.1, -3, 2, 0, 1, -1]).view(1, 3, 1, 2))
    assert moved.flatten().tolist() == [1, 1.5, 0.5, 1, 1, 1]
    assert step != ODIN(epsilon=0.5, in_pixels=False).perturbations({})[0]
    with pytest.raises(InputError, match="entries=0"):
        ODIN(entries=0)


def test_step_is_divided_by_the_standard_deviation() -> None:
    detector = ODIN(epsilon=0.01)
    detector.setup(NetworkInfo(3, 2, HEAD, std=STD))
    assert detector.perturbations({})[0].step == pytest.approx((0.05, 0.04, 0.02))
    detector = ODIN(epsilon=0.01, in_pixels=False)
    detector.setup(NetworkInfo(3, 2, HEAD, std=STD))
    assert detector.perturbations({})[0].step == (0.01, 0.01, 0.01)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_orders_as_the_probability_does_without_ties(temperature: float) -> None:
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 30
    logits[0] = 0
    score = ODIN(temperature).of_logits(logits)
    p = (logits.double() / temperature).softmax(1).amax(1)
    assert score.dtype == torch.float32 and score[0] == pytest.approx(0, abs=1e-7) and (score[1:] > 0).all()
    assert torch.equal(p[score.argsort()], p.sort().values)
    assert len(score.unique()) >= len(p.unique())
    torch.testing.assert_close(ODIN(temperature).log_of_logits(logits).double(), (7 * p).log(), rtol=1e-5, atol=1e-8)


def test_one_class_has_a_score() -> None:
    assert ODIN().of_logits(torch.randn(3, 1)).tolist() == [0, 0, 0]


class Net(nn.Module):
    """Two convolutions with an in-place rectification, a mean and a linear classifier; in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True)
        )
        self.fc = nn.Linear(12, 5)
        self.fc.weight.data *= 30

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images).mean((2, 3)))


def react(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    return z.clamp(max=float(fit["threshold"])) @ w.T + b


def dice(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    return z @ fit["weight"].double().T + b


def ash(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    kept = z >= z.topk(6, dim=1).values[:, -1:]
    return (z * kept * (z.sum(1) / (z * kept).sum(1)).exp()[:, None]) @ w.T + b


def scale(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    kept = z >= z.topk(6, dim=1).values[:, -1:]
    return (z * (z.sum(1) / (z * kept).sum(1)).exp()[:, None]) @ w.T + b


def line(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    c, m = z.clamp(max=0.3), fit["contributions"].double()
    rows = []
    for x, k in zip(c, (c @ w.T + b).argmax(1), strict=True):
        weights = w * (m[k].abs() * w > fit["weight_thresholds"][k])
        rows.append(weights @ (x * (m[k] > fit["unit_thresholds"][k])) + b)
    return torch.stack(rows)


def block_norm(map_: Tensor, z: Tensor, w: Tensor, b: Tensor, fit: Fitted) -> Tensor:
    return z / z.norm(dim=1, keepdim=True) * feature_norm(map_)[:, None] @ w.T + b


SHAPINGS: dict[str, tuple[Callable[[ODIN], Detector], Callable[..., Tensor]]] = {
    "none": (lambda odin: odin, lambda map_, z, w, b, fit: z @ w.T + b),
    "react": (lambda odin: ReAct(odin, percentile=75), react),
    "dice": (lambda odin: DICE(50, odin), dice),
    "ash": (lambda odin: ASH("s", 50, odin), ash),
    "scale": (lambda odin: SCALE(50, odin), scale),
    "line": (lambda odin: LINe(30, 30, 0.3, base=odin), line),
    "block_norm": (lambda odin: BlockNorm(odin, FeatureNorm(block="last")), block_norm),
}


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_agrees_with_plain_autograd_after_any_shaping(shaping: str) -> None:
    """With frozen weights and in inference mode, as in a test pass."""
    make, formula = SHAPINGS[shaping]
    network, detector = Net().eval().requires_grad_(False), make(ODIN(10.0, 0.02))
    draw = torch.Generator().manual_seed(0)
    train, labels = torch.rand(60, 3, 8, 8, generator=draw), torch.arange(60) % 5
    images = torch.rand(9, 3, 8, 8, generator=draw) + 0.05
    backbone = Backbone(network, (8, 8), std=STD)
    detector.setup(backbone.info(labels))
    backbone.configure(detector.reads)
    if detector.requires_fit:
        detector.update(backbone(train, labels))
    fitted = detector.compute()
    steps = detector.perturbations(fitted)
    backbone.configure(detector.reads | Reads(perturbations=tuple(steps)))
    with torch.inference_mode():
        features = backbone(images * 1.0)
        score = detector.score(features, fitted)
    assert detector.extra_forwards["test"] == len(steps) == 1

    network = network.double()

    def logits(x: Tensor) -> Tensor:
        map_ = network.body(x)
        return formula(map_, map_.mean((2, 3)), network.fc.weight, network.fc.bias, fitted)

    x = images.double().requires_grad_()
    before = logits(x)
    nn.functional.cross_entropy(before / 10, before.argmax(1)).backward()
    assert x.grad is not None
    sign = torch.where(x.grad >= 0, 1.0, -1.0)
    with torch.no_grad():
        after = logits(x - 0.02 * sign / torch.tensor(STD)[:, None, None])
    p = (after / 10).softmax(1).amax(1)
    torch.testing.assert_close(probability(score, 5), p, rtol=1e-5, atol=1e-6)
    assert (p - (before / 10).softmax(1).amax(1)).abs().min() > 1e-4, "the step moves the score"


def test_nap_multiplies_into_a_perturbed_base() -> None:
    detector = NAP(ReAct(ODIN(epsilon=0.01), threshold=1.0), weight=1.0, form="map")
    assert detector.extra_forwards == {"fit": 0, "test": 1}
    assert detector.perturbations({}) == detector.base.perturbations({})  # type: ignore[union-attr]


def test_equal_settings_are_one_step_and_no_epsilon_is_none() -> None:
    same = {*ODIN(epsilon=0.1).perturbations({}), *ODIN(epsilon=0.1).perturbations({})}
    other = {*ODIN(epsilon=0.2).perturbations({}), *ReAct(ODIN(epsilon=0.1)).perturbations({})}
    assert len(same) == 1 and len(same | other) == 3
    assert ODIN().perturbations({}) == [] and ODIN().extra_forwards == {"fit": 0, "test": 0}


def test_refusals() -> None:
    with pytest.raises(InputError, match="only a test pass has"):
        ODIN(epsilon=0.1).score(Features(torch.zeros(2, 3), torch.zeros(2, 4)), {})
    for arguments in ((0.0, 0.1), (1.0, -0.1)):
        with pytest.raises(InputError, match="temperature"):
            ODIN(*arguments)
