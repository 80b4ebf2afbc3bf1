"""What a fit pass finds doubtful: told where it is so, and not where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.cadref import CADRef, CARef
from lightning_ood.detectors.combine.fusion import Fusion
from lightning_ood.detectors.combine.search import Search
from lightning_ood.detectors.cop import CoP
from lightning_ood.detectors.ctm import CTM
from lightning_ood.detectors.doubts import Seen, ends_of, few_doubts
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.gram import Gram
from lightning_ood.detectors.grood import GROOD
from lightning_ood.detectors.kl_matching import KLMatching
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.openmax import OpenMax
from lightning_ood.detectors.pnml import PNML
from lightning_ood.detectors.react import ReAct
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.detectors.she import SHE
from lightning_ood.detectors.vim import ViM
from lightning_ood.features import Features, Head, NetworkInfo
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing.toy import Toy

TOY = Toy()


class Negative(Energy):
    """Scores everything the wrong way round."""

    def of_logits(self, logits: Tensor) -> Tensor:
        return -super().of_logits(logits)


def fitted(detectors: dict[str, Detector], keep: slice = slice(None), batch: int = 90) -> DetectorSuite:
    """A suite after a fit on toy images, which include jigsaws if a detector asks for them."""
    suite = DetectorSuite(detectors)
    images = TOY.train()
    suite.setup(TOY.info(images.labels[keep]))
    train = TOY(images, suite.reads("fit")).select(keep)
    for start in range(0, len(train), batch):
        suite.update(train.select(slice(start, start + batch)))
    assert suite.compute() == {}
    return suite


def told(detector: Detector, keep: slice = slice(None)) -> str:
    """The doubts about a detector; a FeatureNorm beside it makes the pass compute jigsaws."""
    return " | ".join(fitted({"x": detector, "beside": FeatureNorm()}, keep).doubts["x"])


def test_a_good_fit_is_not_doubted() -> None:
    good = {"knn": KNN(5), "react": ReAct(), "energy": Energy(), "msp": MSP(), "vim": ViM()}
    doubts = fitted({**good, "norm": FeatureNorm()}).doubts
    assert {name: doubts[name] for name in good} == {name: [] for name in good}
    assert "NormRatio" in " ".join(doubts["norm"]), "the toy's blocks respond more to jigsaws"


def test_rank_of_a_covariance() -> None:
    few = slice(0, 12)
    classes = len(TOY.train().labels[few].unique())
    text = told(MDS(), few)
    assert f"within classes has at most rank {12 - classes} in 16 dimensions (12 images" in text
    assert "shrinkage: oas" in text
    assert "rank" not in told(MDS())
    assert "rank" not in told(MDS(shrinkage="oas"), few)
    text = told(RMDS(), few)
    assert "covariance of all images has at most rank 11 in 16" in text and "within classes" in text
    assert "at most rank 12 in 16" in told(ViM(), few)


def test_one_image_a_class() -> None:
    labels = TOY.train().labels
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in labels.unique()])
    suite = DetectorSuite({"mds": MDS()})
    train = TOY(TOY.train(), suite.reads("fit")).select(first)
    suite.setup(TOY.info(train.labels))
    suite.update(train)
    assert suite.compute() == {}
    assert any("at most rank 0" in doubt and "every distance is 0" in doubt for doubt in suite.doubts["mds"])
    assert suite.score(TOY(TOY.id_test(), suite.reads("test"))).unique().numel() == 1


def test_classes_without_images() -> None:
    for detector in (MDS(), SHE(), LINe(), KLMatching()):
        assert "1 of 5 classes have no" in told(detector)


def test_statistics_of_few_images() -> None:
    few = slice(0, 12)  # of five classes
    for detector in (CTM(), CARef(), CADRef(), GROOD(), Gram(), OpenMax()):
        assert "training images per class, and half of the classes have 3 or fewer" in told(detector, few), detector
        assert "per class" not in told(detector), detector
    for spectral in (PNML(), CoP()):
        assert "of 12 images in 16 dimensions" in told(spectral, few) and "dimensions" not in told(spectral)
    assert few_doubts(Seen(images=12, width=3), 4, "means", least=3) == []
    assert "have 3 or fewer" in few_doubts(Seen(images=12, width=3), 4, "means", least=4)[0], "without labels"


def test_coverage_of_more_images_than_there_are() -> None:
    assert "pooled: its samples=50 is above the 30 images" in told(NAC(), slice(0, 30))
    assert "samples" not in told(NAC({"pooled": NACLayer(30)}), slice(0, 30))


def test_constants_of_another_network() -> None:
    assert "clips nothing" in told(ReAct(threshold=1e4))
    assert "clips 9" in told(ReAct(threshold=1e-6)) or "clips 8" in told(ReAct(threshold=1e-6))
    assert "clips" not in told(ReAct(percentile=95))
    assert "clips nothing" in told(LINe(threshold=1e4))
    assert "clips" not in told(LINe(threshold=None))
    assert "predict another class than the network's for" in told(ReAct(threshold=-1e3))


def test_thresholds_of_line_that_are_all_zero() -> None:
    """A percentile among units that are dead on the training images."""
    head = Head(torch.eye(2).repeat(1, 4), torch.zeros(2))
    pooled = torch.rand(40, 8, generator=torch.Generator().manual_seed(0))
    pooled[:, 2:] = 0
    labels = torch.arange(40) % 2
    train = Features(head(pooled), pooled, head, labels=labels, index=torch.arange(40))
    suite = DetectorSuite({"line": LINe(10, 10, None)})
    suite.setup(NetworkInfo(8, 2, head, labels=labels))
    suite.update(train)
    assert suite.compute() == {}
    said = " ".join(suite.doubts["line"])
    assert "unit thresholds are 0 in all classes" in said and "weight thresholds are 0 in all classes" in said


def test_jigsaws_above_images() -> None:
    assert "scores jigsaws of the training images above the images" in told(Negative())
    assert told(Energy()) == ""
    text = told(Fusion({"energy": Energy(), "wrong": Negative()}))
    assert "wrong: it scores jigsaws" in text and "energy: it" not in text
    assert fitted({"x": Negative(), "beside": KNN(5)}).doubts["x"] == [], "no detector of the run makes jigsaws"


def test_searches_that_end_at_a_boundary_or_below_chance() -> None:
    text = told(Search(Negative(), {"temperature": [0.5, 1.0, 2.0, 4.0]}))
    assert "boundary" in text and "scores pseudo-OOD above training images" in text
    detector = NAP(Energy(), "search")
    suite = fitted({"nap": detector})
    curve = torch.linspace(0.3, 0.4, 21, dtype=torch.float64)[None]
    fit: Fitted = {**suite.fitted["nap"], "weight": torch.tensor(1.0), "curve": curve}
    seen = Seen(images=100, width=16)
    said = " ".join(detector.doubts(fit, seen))
    assert "weight=1 (the base alone)" in said and "AUROC 40.0" in said
    inner = {**fit, "weight": torch.tensor(0.5), "curve": curve + 0.4}
    assert detector.doubts(inner, seen) == []


def test_ends_of_a_grid() -> None:
    grid = {"k": [1, 5, 50], "base": ["a", "b", "c"], "percentile": [80, 90]}
    assert ends_of(grid, {"k": 50, "base": "a", "percentile": 90}) == ["k=50"], "two values have no middle"
    assert ends_of(grid, {"k": 5, "base": "a", "percentile": 90}) == []


def test_children_are_asked() -> None:
    assert told(NAP(ReAct(threshold=1e4))).startswith("base: its threshold 1e+04 clips nothing")
    assert "of: " in told(Search(ReAct(), {"threshold": [1e4]}))


def test_doubts_are_saved_and_kept() -> None:
    few = slice(0, 12)
    suite = fitted({"mds": MDS(), "react": ReAct(threshold=1e4)}, few)
    state = suite.state_dict()
    assert {type(line) for entry in state["doubts"].values() for line in entry["said"]} == {str}
    other = DetectorSuite({"mds": MDS(), "react": ReAct(threshold=1.0)})
    other.load_state_dict(state)
    assert other.doubts == {"mds": suite.doubts["mds"]}, "not those of another threshold"
    old = {key: value for key, value in state.items() if key != "doubts"}
    other.load_state_dict(old)
    assert other.doubts == {}


def test_watching_changes_no_fit_and_is_the_same_in_any_batches() -> None:
    make = lambda: {"mds": MDS(), "knn": KNN(5), "norm": FeatureNorm(), "x": Negative()}  # noqa: E731
    one, other = fitted(make(), batch=400), fitted(make(), batch=7)
    assert one.doubts == other.doubts and one.doubts["x"]


@pytest.mark.parametrize("labels", [True, False])
def test_images_without_labels_or_index(labels: bool) -> None:
    suite = DetectorSuite({"react": ReAct()})
    suite.setup(TOY.info())
    train = TOY(TOY.train(), suite.reads("fit"))
    suite.update(replace(train, index=None, labels=train.labels if labels else None))
    assert suite.compute() == {} and suite.doubts == {"react": []}
