from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.combine.search import Search, varied
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.pseudo_ood import criterion
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Reads
from lightning_ood.metrics.rates import auroc, fpr95
from lightning_ood.ops.hashing import hash_index
from lightning_ood.testing import check_detector
from lightning_ood.testing.toy import Toy
from lightning_ood.views import Blur, Jigsaw, View

TOY = Toy()
READS = Reads(("last",), views=(Jigsaw(), Jigsaw(2), Blur()), head=True)
TRAIN = TOY(TOY.train(), READS)


def fit(detector: Detector, train: Features = TRAIN, ood: Features | None = None) -> dict[str, Tensor]:
    detector.setup(TOY.info(train.labels))
    for start in range(0, len(train), 90):
        detector.update(train.select(slice(start, start + 90)))
    if ood is not None:
        detector.update_ood(ood)
    return detector.compute()


@pytest.mark.parametrize("which", ["auroc", "fpr95"])
def test_criterion_is_the_metric(which: str) -> None:
    draw = torch.Generator().manual_seed(0)
    id_scores, ood_scores = torch.randn(143, generator=draw).round(decimals=1) + 1, torch.randn(99, generator=draw)
    ood_scores = ood_scores.round(decimals=1)
    expected = {"auroc": auroc, "fpr95": fpr95}[which](id_scores, ood_scores)
    assert criterion(id_scores, ood_scores, which).item() == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", ["auroc", "fpr95"])
@pytest.mark.parametrize(
    ("of", "grid"),
    [
        (DICE(), {"percentile": [0, 50, 90, 98], "base.temperature": [1.0, 20.0]}),
        (KNN(), {"k": [1, 5, 40]}),
    ],
)
def test_search_agrees_with_brute_force(of: Detector, grid: dict[str, list], which: str) -> None:
    """Each candidate fitted alone and scored on all images that were held out, and on every view of all images."""
    views: list[View] = [Jigsaw(2), Blur()]
    search = Search(of, grid, views, which, images=10_000, held_out=0.25, seed=5)  # type: ignore[arg-type]
    fitted = fit(search)
    aside = hash_index(TRAIN.index, 5) < 2**61  # type: ignore[arg-type]
    metric = {"auroc": auroc, "fpr95": fpr95}[which]
    table = []
    for values in product(*grid.values()):
        candidate = varied(of, dict(zip(grid, values, strict=True)))
        alone = fit(candidate, TRAIN.select(~aside))
        id_scores = candidate.score(TRAIN.select(aside), alone)
        table.append([metric(id_scores, candidate.score(TRAIN.views[view], alone)) for view in views])
    expected = torch.tensor(table, dtype=torch.float64).T
    torch.testing.assert_close(fitted["criterion"], expected, rtol=0, atol=2e-4)
    mean = expected.mean(0) * (1 if which == "auroc" else -1)
    assert mean[int(fitted["chosen"])] >= mean.max() - 2e-4
    chosen = dict(zip(grid, list(product(*grid.values()))[int(fitted["chosen"])], strict=True))
    best = varied(of, chosen)
    best_fit = fit(best, TRAIN.select(~aside))
    torch.testing.assert_close(search.score(TRAIN, fitted), best.score(TRAIN, best_fit), rtol=1e-4, atol=1e-4)
    summary = search.summary(fitted)
    assert {name: summary[name] for name in grid} == chosen


def test_a_nearest_neighbour_is_not_flattered_by_itself() -> None:
    """On the images of its own bank, k = 1 separates perfectly from any OOD set."""
    flattered = fit(Search(KNN(), {"k": [1, 20]}, held_out=0.0))
    assert flattered["criterion"][0, 0] == 1
    assert fit(Search(KNN(), {"k": [1, 20]}))["criterion"][0, 0] < 1


def test_a_parameter_that_changes_no_score_is_dead() -> None:
    given = ReAct(threshold=1.0)  # a threshold leaves the percentile without use
    search = Search(given, {"percentile": [80, 90], "base.temperature": [1.0, 2.0, 5.0]})
    fitted = fit(search)
    assert fitted["dead"].tolist() == [True, False]
    assert search.summary(fitted)["dead"] == "percentile" and search.summary(fitted)["percentile"] == 80
    alive = Search(DICE(), {"percentile": [50, 90]})
    assert "dead" not in alive.summary(fit(alive))


def test_what_scoring_alone_reads_is_fitted_once() -> None:
    search = Search(KNN(), {"k": [1, 5, 20], "bank_size": [100, 200]})
    assert len(search.candidates) == 6 and len(search.leaders) == 2
    assert len(Search(DICE(), {"base.temperature": [1.0, 2.0]}).leaders) == 1
    assert len(Search(LINe(), {"threshold": [1.0, 2.0]}).leaders) == 2


def test_validation_images_stand_for_ood() -> None:
    ood = TOY(TOY.ood_test(), replace(READS, views=()))
    search = Search(Energy(), {"temperature": [0.5, 5.0]}, pseudo_ood=[])
    fitted = fit(search, ood=ood)
    expected = [auroc(Energy(t).score(TRAIN, {}), Energy(t).score(ood, {})) for t in (0.5, 5.0)]
    assert fitted["criterion"].tolist()[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="val_ood"):
        fit(Search(Energy(), {"temperature": [0.5, 5.0]}, pseudo_ood=[]))
    with_views = Search(Energy(), {"temperature": [0.5, 5.0]})
    assert torch.equal(fit(with_views, ood=ood)["criterion"], fit(with_views)["criterion"])


def test_arguments_are_reached_by_path_and_the_template_stays() -> None:
    nac = NAC({"pooled": NACLayer(samples=20), "last": NACLayer()})
    other = varied(nac, {"layers.pooled.alpha": 7.0, "pool": "mean"})
    assert isinstance(other, NAC)
    assert (
        other.layers["pooled"] == NACLayer(20, 50, 7.0) and other.pool == "mean" and other.layers["last"] == NACLayer()
    )
    assert nac.layers["pooled"].alpha == 3000 and nac.pool == "sum"
    react = varied(ReAct(MSP()), {"percentile": 70})
    assert isinstance(react, ReAct) and isinstance(react.base, MSP) and react.percentile == 70
    tempered = varied(ReAct(), {"base.temperature": 3.0})
    assert isinstance(tempered, ReAct) and isinstance(tempered.base, Energy) and tempered.base.temperature == 3.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Search(KNN(), {}), "needs a grid"),
        (lambda: Search(KNN(), {"k": []}), "at least one value"),
        (lambda: Search(KNN()), "needs a grid"),
        (lambda: Search(KNN(), {"kk": [1]}), "no argument 'kk'.*k"),
        (lambda: Search(KNN(), {"k.x": [1]}), "reaches into 50"),
        (lambda: fit(Search(ODIN(), {"epsilon": [0.0, 0.1]})), "epsilon: 0"),
        (lambda: fit(Search(KNN(), {"k": [1]}, held_out=1e-12)), "held out"),
    ],
)
def test_refusals(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


class Broken(Energy):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) / (self.temperature - 1)


def test_a_candidate_that_gives_no_number_is_named() -> None:
    with pytest.raises(InputError, match=r"temperature=1\.0 gives scores that are not finite"):
        fit(Search(Broken(), {"temperature": [2.0, 1.0]}))


VARIANTS = {
    "knn": lambda: Search(KNN(), {"k": [1, 10, 50], "bank_size": [200, 400]}),
    "nested": lambda: Search(DICE(), {"percentile": [50, 80], "base.temperature": [1.0, 3.0]}, [Jigsaw(2)], images=64),
    "fpr95": lambda: Search(LINe(), {"threshold": [None, 1.0]}, criterion="fpr95"),
}


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_contract(make: Callable[[], Detector]) -> None:
    check_detector(make)
