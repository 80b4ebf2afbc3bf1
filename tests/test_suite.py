"""In a suite each detector fits and scores as it does alone, and the failure of one does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors import (
    DICE,
    FDBD,
    KNN,
    MDS,
    NAP,
    NCI,
    ODIN,
    RMDS,
    VRA,
    Energy,
    FeatureNorm,
    Fusion,
    LINe,
    MaxLogit,
    NNGuide,
    ReAct,
    Residual,
    Search,
    ViM,
)
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Reads
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing.toy import Toy

TOY = Toy()
LABELS = TOY.train().labels


class MDSPP(MDS):
    """Mahalanobis distance of normalised features, as a user would write it."""

    def update(self, features: Features) -> None:
        super().update(replace(features, pooled=features.direction))

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(replace(features, pooled=features.direction), fitted)


class HalfKNN(KNN):
    """A bank of every second image, as a user would write it."""

    def update(self, features: Features) -> None:
        assert features.index is not None
        super().update(features.select(features.index % 2 == 0))


MAKE: dict[str, Callable[[], Detector]] = {
    "knn": lambda: KNN(5, bank_size=64),
    "nnguide": lambda: NNGuide(5, bank_size=64),
    "nap knn": lambda: NAP(KNN(7, bank_size=64)),
    "another seed": lambda: KNN(5, bank_size=64, seed=1),
    "fusion": lambda: Fusion({"knn": KNN(5, bank_size=64), "mds": MDS(), "energy": Energy()}),
    "fusion apart": lambda: Fusion({"knn": KNN(5, bank_size=64), "mds": MDS()}, held_out=0.3),
    "search": lambda: Search(KNN(5, bank_size=64), {"k": [1, 5]}, held_out=0.3),
    "nap search": lambda: NAP(KNN(5, bank_size=64), weight="search"),
    "mds": MDS,
    "mds of directions": MDSPP,
    "rmds": RMDS,
    "half": lambda: HalfKNN(5, bank_size=64),
    "vim": ViM,
    "residual": Residual,
    "vra": VRA,
    "dice": DICE,
    "fdbd": FDBD,
    "nci": NCI,
    "react": ReAct,
    "react maxlogit": lambda: ReAct(MaxLogit(), percentile=80),
    "line": lambda: LINe(clip_percentile=95),
}


def suite_of(*names: str) -> DetectorSuite:
    suite = DetectorSuite({name: MAKE[name]() for name in names})
    suite.setup(TOY.info(LABELS))
    return suite


def batches() -> list[Features]:
    features = TOY(TOY.train(), suite_of(*MAKE).reads("fit") | Reads(head=True))
    return [features.select(slice(a, b)) for a, b in ((0, 1), (1, 120), (120, 121), (121, None))]


def fitted(suite: DetectorSuite, images: Sequence[Features]) -> DetectorSuite:
    for batch in images:
        suite.update(batch)
    assert suite.compute() == {}
    return suite


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    images = batches()
    return {name: fitted(suite_of(name), images).fitted[name] for name in MAKE}


def same(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> None:
    for name, tensors in expected.items():
        assert tensors.keys() == found[name].keys()
        for key, value in tensors.items():
            torch.testing.assert_close(found[name][key], value, msg=lambda text, at=f"{name} {key}": f"{at}: {text}")


@pytest.mark.parametrize("order", [1, -1], ids=["as listed", "reversed"])
def test_each_fits_what_it_fits_alone(alone: dict[str, dict[str, Tensor]], order: int) -> None:
    images, suite = batches(), suite_of(*list(MAKE)[::order])
    same(fitted(suite, images).fitted, alone)
    suite.reset()
    same(fitted(suite, images).fitted, alone)


def test_two_processes_fit_as_one(alone: dict[str, dict[str, Tensor]]) -> None:
    """Also if a process has no image, which cannot know by itself which detectors use features of their own."""
    images = batches()
    for shares in ((images[:2], images[2:]), (images, []), ([], images)):
        first, second = suite_of(*MAKE), suite_of(*MAKE)
        for suite, share in ((first, shares[0]), (second, shares[1])):
            for batch in share:
                suite.update(batch)
        for detector in first.detectors.values() if shares[0] else ():
            detector.compute()  # a merge after a compute has to count too
        for name, detector in first.detectors.items():
            detector.merge_state(second.detectors[name])
        assert first.compute() == {}
        same(first.fitted, alone)


def test_a_neighbour_with_other_features_changes_no_score() -> None:
    """Three detectors ask for the same statistic, two of raw features and one of normalised features."""
    images = batches()
    test = TOY(TOY.id_test(), Reads(head=True))
    together = fitted(suite_of("mds of directions", "mds", "rmds"), images).score(test)
    for column, name in enumerate(("mds of directions", "mds", "rmds")):
        torch.testing.assert_close(together[:, column], fitted(suite_of(name), images).score(test)[:, 0])


def test_an_equal_copy_of_a_batch_fills_no_bank_twice() -> None:
    images = batches()
    suite = suite_of("knn", "nnguide")
    for batch in images:
        suite.detectors["knn"].update(batch)
        suite.detectors["nnguide"].update(replace(batch, pooled=batch.pooled.clone()))
    assert suite.compute() == {}
    for name in ("knn", "nnguide"):
        bank = suite.fitted[name]["bank"]
        assert len(bank.unique(dim=0)) == len(bank) == 64


def test_features_that_change_in_the_middle_are_refused() -> None:
    images = batches()
    suite = suite_of("mds", "rmds")
    suite.update(images[1])
    suite.detectors["mds"].update(images[3])
    with pytest.raises(RuntimeError, match="shared 1 batches of Moments"):
        suite.detectors["rmds"].update(replace(images[3], pooled=images[3].direction))


def test_a_bank_is_held_and_multiplied_with_once() -> None:
    images = batches()
    suite = fitted(suite_of(*MAKE), images)
    found = suite.fitted
    banks = [found["knn"]["bank"], found["nnguide"]["bank"], found["nap knn"]["base.bank"], found["fusion"]["knn.bank"]]
    assert len({id(bank) for bank in banks}) == 1
    others = [found["another seed"]["bank"], found["fusion apart"]["knn.bank"], found["half"]["bank"]]
    assert len({bank.data_ptr() for bank in [*banks, *others]}) == 4
    assert images[1].similarity(banks[0]) is images[1].similarity(banks[1])
    assert torch.equal(images[1].similarity(banks[0]), images[1].direction @ banks[0].T)
    moved = suite.to("meta").fitted
    assert moved["knn"]["bank"] is moved["nnguide"]["bank"] and moved["knn"]["bank"].is_meta
    assert moved["search"]["chosen"].device.type == "cpu", "the host reads which candidate was chosen"


def test_one_that_cannot_be_fitted_does_not_take_the_others_along() -> None:
    """A bank without enough neighbours, and features that are not finite, whose covariance cannot be decomposed."""
    batch = TOY(TOY.train(), Reads(head=True))
    infinite = replace(batch, pooled=batch.pooled.index_fill(0, torch.tensor([3]), torch.inf))
    suite = DetectorSuite({"knn": KNN(10_000), "mds": MDS(), "react": ReAct()})
    suite.setup(TOY.info(batch.labels))
    for name, detector in suite.detectors.items():
        detector.update(infinite if name == "mds" else batch)
    reasons = suite.compute()
    assert list(suite.fitted) == ["react"] and list(reasons) == ["knn", "mds"]
    assert [str(reason)[:27] for reason in reasons.values()] == [
        "fitting detector 'knn': k=1",
        "fitting detector 'mds': lin",
    ]


def test_a_fit_with_nan_is_none() -> None:
    class Broken(Energy):
        def update(self, features: Features) -> None:
            self.seen = True

        def compute(self) -> dict[str, Tensor]:
            return {"threshold": torch.tensor(torch.nan)}

    suite = DetectorSuite({"broken": Broken(), "react": ReAct()})
    suite.setup(TOY.info(LABELS))
    suite.update(TOY(TOY.train(), Reads(head=True)))
    reasons = suite.compute()
    assert list(suite.fitted) == ["react"]
    assert "detector 'broken'" in str(reasons["broken"]) and "threshold" in str(reasons["broken"])


def test_what_is_read_in_each_phase() -> None:
    detectors: dict[str, Detector | None] = {
        "energy": Energy(),
        "norm": FeatureNorm(),
        "odin": ODIN(epsilon=0.01),
        "knn": KNN(5),
        "none": None,
    }
    suite = DetectorSuite(detectors)
    suite.setup(TOY.info(LABELS))
    assert list(suite.detectors) == ["energy", "norm", "odin", "knn"]
    assert list(suite.requiring_fit) == list(suite.unfitted) == ["norm", "knn"]
    fit, test = suite.reads("fit"), suite.reads("test")
    assert fit.taps == ("block1", "block2", "last") and len(fit.views) == 1 and not fit.perturbations
    assert test.taps == fit.taps and test.views == () and len(test.perturbations) == 1


def test_a_saved_fit_serves_the_same_arguments_alone() -> None:
    suite = fitted(suite_of("knn", "mds"), batches())
    state = suite.state_dict()
    other = DetectorSuite({"knn": KNN(4, bank_size=64), "mds": MDS()})
    other.setup(TOY.info(LABELS))
    assert other.keep(state) == ["mds"] and list(other.unfitted) == ["knn"]
    with pytest.raises(InputError, match=r"'knn' was fitted as .*'k': 5.* and is now .*'k': 4"):
        other.load_state_dict(state)
    more = DetectorSuite({"rmds": RMDS()})
    with pytest.raises(InputError, match="not fitted: rmds"):
        more.load_state_dict(state)
    again = suite_of("knn", "mds")
    again.load_state_dict(state)
    test = TOY(TOY.id_test(), Reads(head=True))
    assert torch.equal(again.score(test), suite.score(test))


def test_a_scope_that_was_fitted_before_leaves_statistics_to_the_unfitted() -> None:
    """MDS is already fitted and not updated, so RMDS owns the sums that both ask for."""
    images = batches()
    suite = suite_of("mds", "rmds")
    suite.fitted = {"mds": fitted(suite_of("mds"), images).fitted["mds"]}
    suite.setup(TOY.info(LABELS))
    fitted(suite, images)
    same(suite.fitted, fitted(suite_of("mds", "rmds"), images).fitted)


def test_errors_name_the_detector() -> None:
    suite = DetectorSuite({"far": NAP(tap="blok1", form="map")})
    with pytest.raises(InputError, match=r"detector 'far'.*'blok1'.*block1"):
        suite.setup(TOY.info(LABELS))
    suite = DetectorSuite({"near": KNN(5)})
    suite.setup(TOY.info(LABELS))
    with pytest.raises(InputError, match=r"scoring with detector 'near'.*only after a fit"):
        suite.score(TOY(TOY.id_test(), Reads()))
