import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.combine.fusion import Fisher, Fusion, Joint, RobustZ, Rule
from lightning_ood.detectors.combine.layers import Layers
from lightning_ood.detectors.combine.search import Search
from lightning_ood.detectors.combine.votes import log_odds
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.errors import InputError
from lightning_ood.features import Features
from lightning_ood.metrics.rates import auroc
from lightning_ood.testing import check_detector
from lightning_ood.testing.toy import Toy
from lightning_ood.views import Jigsaw
from tests.helpers.toys import features, fit, fitted_score, random_features, setup_for

DRAW = torch.Generator().manual_seed(0)
ID_SCORES = torch.randn(101, 3, generator=DRAW, dtype=torch.float64) * torch.tensor([1.0, 20, 0.1]) + 5
SCORES = torch.randn(40, 3, generator=DRAW, dtype=torch.float64) * torch.tensor([2.0, 40, 0.2]) + 4.5


def robust_z(scores: np.ndarray, id_scores: np.ndarray) -> np.ndarray:
    total = np.zeros(len(scores))
    for m in range(id_scores.shape[1]):
        low, median, high = np.percentile(id_scores[:, m], [25, 50, 75])
        total += (scores[:, m] - median) / (high - low)
    return total


def fisher(scores: np.ndarray, id_scores: np.ndarray) -> np.ndarray:
    n = len(id_scores)
    p = [[(1 + sum(k <= s for k in id_scores[:, m])) / (n + 1) for m, s in enumerate(row)] for row in scores]
    return np.log(p).sum(axis=1)


def joint(scores: np.ndarray, id_scores: np.ndarray) -> np.ndarray:
    n = len(id_scores)
    return np.array([math.log((1 + sum(all(k <= row) for k in id_scores)) / (n + 1)) for row in scores])


@pytest.mark.parametrize(("rule", "formula"), [(RobustZ(), robust_z), (Fisher(), fisher), (Joint(), joint)])
def test_rules_agree_with_their_formula(rule: Rule, formula: Callable) -> None:
    np.testing.assert_allclose(rule(SCORES, ID_SCORES).numpy(), formula(SCORES.numpy(), ID_SCORES.numpy()), rtol=1e-9)


def test_rules_by_hand() -> None:
    id_scores = torch.tensor([[1.0, 10], [2, 30], [3, 20], [4, 40], [5, 50]])
    scores = torch.tensor([[3.0, 60], [0.0, 0.0]])
    assert RobustZ()(scores, id_scores).tolist() == pytest.approx([0 + 30 / 20, -3 / 2 - 30 / 20])
    assert RobustZ(ceiling=1)(scores, id_scores).tolist() == pytest.approx([1.0, -3.0])
    squares = [-1.0, -(2.5**2) - 2.5**2]  # z is 0 and 1.5 of the first image, -1.5 twice of the other
    assert RobustZ(1, 2)(scores, id_scores).tolist() == pytest.approx(squares)
    assert RobustZ(1, 2, [0.5, 2])(scores, id_scores).tolist() == pytest.approx([-0.5, 2.5 * squares[1] / 2])
    with pytest.raises(InputError, match="1 weights for 2 detectors"):
        RobustZ(weights=[1.0])(scores, id_scores)
    assert Fisher()(scores, id_scores).tolist() == pytest.approx([math.log(4 / 6), 2 * math.log(1 / 6)])
    assert Joint()(scores, id_scores).tolist() == pytest.approx([math.log(4 / 6), math.log(1 / 6)])


def test_a_member_without_spread_is_left_out() -> None:
    id_scores = torch.tensor([[1.0, 7], [2, 7], [3, 7], [4, 7]])
    odd = torch.tensor([[1.0, 0], [2, 0], [2.5, 0], [3, 0], [4, 8]])  # the quartiles are equal, the deviation is not
    scores = torch.tensor([[2.5, 100.0]])
    assert RobustZ()(scores, id_scores).item() == 0
    assert RobustZ()(scores, odd).item() == pytest.approx(100 / odd[:, 1].std(unbiased=False).item())


@pytest.mark.parametrize("rule", [Fisher(), Joint()])
def test_p_values_do_not_mind_a_members_scale(rule: Rule) -> None:
    scale = torch.tensor([1e-3, 7.0, 1e4], dtype=torch.float64)
    assert torch.equal(rule(SCORES * scale, ID_SCORES * scale), rule(SCORES, ID_SCORES))
    torch.testing.assert_close(RobustZ()(SCORES * scale - 3, ID_SCORES * scale - 3), RobustZ()(SCORES, ID_SCORES))


class Down(MaxLogit):
    """The negative of the largest logit."""

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return -super().score(features, fitted)


def members() -> dict[str, Detector]:
    return {"energy": Energy(), "mds": MDS(), "knn": KNN(5)}


def test_fusion_is_the_rule_on_the_members_own_scores() -> None:
    train, test = random_features()
    alone = {name: fit(member, train) for name, member in members().items()}

    def stacked(of: Callable[[Detector, dict], Tensor]) -> Tensor:
        return torch.stack([of(m, alone[name]).double() for name, m in zip(alone, ready, strict=True)], dim=1)

    ready = list(members().values())
    for member in ready:
        member.setup(setup_for(train))
    expected = RobustZ()(stacked(lambda m, f: m.score(test, f)), stacked(lambda m, f: m.score(train, f)))
    torch.testing.assert_close(fitted_score(Fusion(members()), train, test), expected, rtol=1e-4, atol=1e-4)


def test_held_out_images_are_not_fitted_on() -> None:
    """A nearest neighbour is at distance 0 from itself: calibrated on its own bank it has no spread."""
    train, _ = random_features()
    own = fit(Fusion({"a": KNN(1), "b": Energy()}), train)
    assert own["id_scores"].shape == (300, 2) and own["id_scores"][:, 0].abs().max() < 1e-3
    apart = fit(Fusion({"a": KNN(1), "b": Energy()}, held_out=0.25), train)
    assert len(apart["a.bank"]) + len(apart["id_scores"]) == 300
    assert 50 < len(apart["id_scores"]) < 100 and apart["id_scores"][:, 0].max() < -1e-3


def test_a_split_inside_a_split_is_another_one() -> None:
    """With the same split the inner fusion would hold out nothing of what the outer one leaves."""
    train, _ = random_features(400)
    inner = Fusion({"a": KNN(1), "b": Energy()}, held_out=0.25)
    fitted = fit(Fusion({"inner": inner, "energy": Energy()}, held_out=0.5), train)
    apart, scored, fitted_on = (len(fitted[key]) for key in ("id_scores", "inner.id_scores", "inner.a.bank"))
    assert apart + scored + fitted_on == 400
    assert 160 < apart < 240 and 30 < scored < 70


def test_votes_by_hand() -> None:
    """AUROCs of 0.75 and 0.5 and one below: log-odds of log 3, and no vote for the others."""
    votes = log_odds(torch.tensor([0.75, 0.5, 0.2, 1.0], dtype=torch.float64), images=99)
    assert votes.tolist() == pytest.approx([math.log(3), 0, 0, math.log(99)])
    assert log_odds(torch.tensor([0.5, 0.1]), 10).tolist() == [1, 1]
    id_scores = torch.tensor([[1.0, 10], [2, 30], [3, 20], [4, 40], [5, 50]])
    scores, given = torch.tensor([[0.0, 0.0]]), torch.tensor([2.0, 0])
    assert RobustZ()(scores, id_scores, given).tolist() == pytest.approx([2 * -1.5])
    assert RobustZ(weights=[0.5, 1])(scores, id_scores, given).tolist() == pytest.approx([-1.5])
    assert Fisher()(scores, id_scores, given).tolist() == pytest.approx([2 * math.log(1 / 6)])
    assert Joint()(torch.tensor([[3.0, 0]]), id_scores, given).tolist() == pytest.approx([math.log(4 / 6)])


def test_votes_are_of_held_out_images_and_their_views() -> None:
    """A member that scores views above images counts nothing, and one that tells them apart has all votes."""
    toy, jigsaw = Toy(), Jigsaw()
    fusion = Fusion({"up": MaxLogit(), "down": Down()}, held_out=0.5, pseudo_ood=[jigsaw])
    fusion.setup(toy.info(toy.train().labels))
    train = toy(toy.train(), fusion.reads)
    assert fusion.extra_forwards == {"fit": 1, "test": 0}
    fusion.update(train)
    fitted = fusion.compute()
    up = auroc(MaxLogit().score(train, {}), MaxLogit().score(train.views[jigsaw], {}))
    assert fitted["auroc"][0].tolist() == pytest.approx([up, 1 - up]) and up > 0.5
    assert fitted["votes"].tolist() == pytest.approx([math.log(up / (1 - up)), 0])
    assert fusion.summary(fitted)["down.vote"] == 0


def test_the_sample_is_bounded() -> None:
    train, _ = random_features()
    detector = Fusion(members(), images=32)
    fitted = fit(detector, train)
    assert fitted["id_scores"].shape == (32, 3)
    summary = detector.summary(fitted)
    assert summary["images"] == 32 and summary["knn.iqr"] > 0  # type: ignore[operator]


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least two"):
        Fusion({"energy": Energy()})
    with pytest.raises(InputError, match="held_out"):
        Fusion(held_out=1.0)
    train, _ = random_features()
    with pytest.raises(InputError, match="write a ceiling"):
        RobustZ(power=2)
    with pytest.raises(InputError, match="epsilon: 0"):
        Fusion({"odin": ODIN(epsilon=0.01), "energy": Energy()}).setup(setup_for(train))
    one = features(train.pooled[:1], train.head)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calibrate"):
        fit(Fusion({"a": MaxLogit(), "b": Energy()}), one)


VARIANTS = {
    "fisher": lambda: Fusion(rule=Fisher()),
    "joint": lambda: Fusion(members(), rule=Joint(), images=64),
    "held out": lambda: Fusion(rule=RobustZ(1.0, 2.0, [1.0, 0.5, 0.5]), held_out=0.3),
    "nested": lambda: Fusion({"one": Fusion(), "two": MaxLogit()}),
    "votes": lambda: Fusion(members(), RobustZ(1.0, 1.5, [1.0, 0.5, 2]), held_out=0.3, pseudo_ood=[Jigsaw()]),
    "held out twice": lambda: Fusion(
        {"nap": NAP(KNN(5), "search"), "layers": Layers(KNN(5), held_out=0.3), "search": Search(KNN(), {"k": [1, 5]})},
        held_out=0.3,
    ),
}


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_contract(make: Callable[[], Detector]) -> None:
    check_detector(make)
