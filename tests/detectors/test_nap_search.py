"""The weight of a product, found on pseudo-OOD from the features of one pass."""

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Reads
from lightning_ood.metrics.rates import auroc
from lightning_ood.ops.hashing import hash_index
from lightning_ood.testing import check_detector
from lightning_ood.testing.toy import Toy
from lightning_ood.views import Jigsaw, Noise, Rotate, View

TOY = Toy()
VIEWS: list[View] = [Jigsaw(2), Rotate(), Noise(0.5)]
OTHERS = {Jigsaw(), Rotate(turns=2), Noise(50.0)}
READS = Reads(("last",), views=(*VIEWS, *OTHERS), head=True)
TRAIN = TOY(TOY.train(), READS)
WEIGHTS = [i / 20 for i in range(21)]


def fit(detector: Detector, train: Features = TRAIN) -> dict[str, Tensor]:
    detector.setup(TOY.info(train.labels))
    for start in range(0, len(train), 70):
        detector.update(train.select(slice(start, start + 70)))
    return detector.compute()


@pytest.mark.parametrize("base", [MSP(), Energy(), DICE(80)], ids=["msp", "energy", "dice"])
def test_curve_is_that_of_fixed_weights(base: Detector) -> None:
    """The search agrees with each weight scored alone on all views; a base without a fit uses all images."""
    found = NAP(base, "search", pseudo_ood=VIEWS, images=10_000, held_out=0.2, seed=4)
    fitted = fit(found)
    aside = (
        hash_index(TRAIN.index, 4) < int(0.2 * 2**63) if base.requires_fit else torch.ones(len(TRAIN), dtype=torch.bool)
    )  # type: ignore[arg-type]
    expected = torch.empty(len(VIEWS), len(WEIGHTS), dtype=torch.float64)
    for i, weight in enumerate(WEIGHTS):
        fixed = NAP(base, weight)
        alone = fit(fixed, TRAIN.select(~aside)) if base.requires_fit else fit(fixed)
        id_scores = fixed.score(TRAIN.select(aside), alone)
        expected[:, i] = torch.tensor([auroc(id_scores, fixed.score(TRAIN.views[view], alone)) for view in VIEWS])
    torch.testing.assert_close(fitted["curve"], expected, rtol=0, atol=2e-4)
    weight = float(fitted["weight"])
    assert expected.mean(0)[round(20 * weight)] >= expected.mean(0).max() - 2e-4
    best = NAP(base, weight)
    best_fit = fit(best, TRAIN.select(~aside)) if base.requires_fit else fit(best)
    torch.testing.assert_close(found.score(TRAIN, fitted), best.score(TRAIN, best_fit), rtol=1e-4, atol=1e-4)


def test_report_has_weight_curve_and_transform() -> None:
    detector = NAP(MSP(), "search", pseudo_ood=[Rotate(turns=2)])
    fitted = fit(detector)
    summary = detector.summary(fitted)
    assert summary["weight"] == pytest.approx(float(fitted["weight"])) and summary["floored"] == 0
    (curve,) = [value for key, value in summary.items() if "Rotate(turns=2" in key]
    assert [float(v) for v in str(curve).split()] == pytest.approx((100 * fitted["curve"][0]).tolist(), abs=0.06)


def test_of_equal_weights_the_middle_one() -> None:
    """If every weight separates the pseudo-OOD perfectly, the middle weight is chosen and not one at an end."""
    fitted = fit(NAP(MSP(), "search", pseudo_ood=[Noise(50.0)]))
    flat = fitted["curve"][0] >= fitted["curve"].max() - 1e-9
    tied = [w for w, holds in zip(WEIGHTS, flat.tolist(), strict=True) if holds]
    assert float(fitted["weight"]) == pytest.approx(tied[len(tied) // 2])


def test_a_fixed_weight_asks_for_no_view() -> None:
    detector = NAP(Energy(), 0.3)
    detector.setup(TOY.info())
    assert detector.views == () and not detector.requires_fit
    searching = NAP(Energy(), "search")
    searching.setup(TOY.info())
    assert searching.views == (Jigsaw(),) and searching.extra_forwards == {"fit": 1, "test": 0}


class Low(Energy):
    """Below zero on every image of the toy."""

    def of_logits(self, logits: Tensor) -> Tensor:
        return super().of_logits(logits) - 100


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fit(NAP(Low(), "search")), r"not positive on 100% of the training images"),
        (lambda: NAP(None, "search"), "name one"),
        (lambda: fit(NAP(ODIN(epsilon=0.1), "search")), "epsilon: 0"),
        (lambda: fit(NAP(KNN(), "search", held_out=1e-12)), "held out"),
        (lambda: fit(NAP(MSP(), "search", pseudo_ood=[])), "val_ood"),
    ],
)
def test_refusals(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("attention", [False, True], ids=["convolutional", "class_token"])
@pytest.mark.parametrize("base", [MSP, Energy, DICE, KNN])
def test_contract(base: type[Detector], attention: bool) -> None:
    check_detector(lambda: NAP(base(), "search", images=128), attention=attention)
