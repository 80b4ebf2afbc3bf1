from dataclasses import replace

import pytest
import torch

from lightning_ood.detectors.combine.fusion import Fisher, RobustZ
from lightning_ood.detectors.combine.layers import Layers
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.fdbd import FDBD
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.vim import ViM
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.testing import check_detector
from lightning_ood.testing.toy import Toy
from tests.helpers.toys import fit


def fitted(detector: Layers, toy: Toy) -> tuple[Features, Features, dict[str, torch.Tensor]]:
    detector.setup(toy.info(toy.train().labels))
    train, test = toy(toy.train(), detector.reads), toy(toy.id_test(), detector.reads)
    for rows in (slice(0, 150), slice(150, None)):
        detector.update(train.select(rows))
    return train, test, detector.compute()


def test_sum_of_one_detector_per_map():
    toy = Toy()
    detector = Layers(KNN(5), ["block1", "last"], RobustZ(ceiling=1.0))
    train, test, fit_of_all = fitted(detector, toy)
    total = torch.zeros(len(test), dtype=torch.float64)
    for tap in ("block1", "last"):
        known, new = (replace(f, pooled=f.maps[tap].flatten(2).mean(2), head=None) for f in (train, test))
        alone = KNN(5)
        of_one = fit(alone, known)
        id_scores, scores = alone.score(known, of_one).double(), alone.score(new, of_one).double()
        low, median, high = id_scores.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
        total += ((scores - median) / (high - low)).clamp(max=1)
    torch.testing.assert_close(detector.score(test, fit_of_all), total, rtol=1e-4, atol=1e-4)


def test_default_is_the_last_block_of_each_resolution():
    detector = Layers()
    detector.setup(Toy().info(Toy().train().labels))
    assert detector.taps == ("last",) and detector.needs_labels and detector.reads == Reads(("last",))
    info = replace(Toy().info(Toy().train().labels), maps={"a": torch.Size((4, 8, 8)), "last": torch.Size((16, 6, 6))})
    detector.setup(replace(info, blocks=("a", "last")))
    assert detector.taps == ("a", "last") and len(detector.copies) == 2


def test_refusals():
    for of, says in (
        (ViM(), "classifier"),
        (FDBD(), "classifier"),
        (FeatureNorm(block="last"), "in place of the penultimate"),
    ):
        with pytest.raises(InputError, match=says):
            Layers(of).setup(Toy().info(Toy().train().labels))
    with pytest.raises(InputError, match="does not have"):
        Layers(maps=["blok1"]).setup(Toy().info())
    with pytest.raises(InputError, match="no blocks"):
        Layers().setup(NetworkInfo(3, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layers(MDS(power=1.0), ["block1", "block2", "last"], Fisher(), held_out=0.3),
        lambda: Layers(Energy(), ["block2", "last"]),
        lambda: Layers(KNN(3), ["block2", "last"], images=50),
    ],
    ids=["mds", "energy", "knn"],
)
def test_contract(make):
    check_detector(make, separates=False)
