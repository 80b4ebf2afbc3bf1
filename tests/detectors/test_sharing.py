"""Detectors of one run hold one sketch of what they sum up alike; each fits what it fits alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.combine.fusion import Fusion
from lightning_ood.detectors.combine.search import Search
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.fdbd import FDBD
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.nci import NCI
from lightning_ood.detectors.nnguide import NNGuide
from lightning_ood.detectors.react import ReAct
from lightning_ood.detectors.residual import Residual
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.detectors.vim import ViM
from lightning_ood.detectors.vra import VRA
from lightning_ood.features import Features
from lightning_ood.suite import taken
from lightning_ood.testing.toy import Reads, Toy

Fitted = dict[str, Tensor]

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
    "rmds": RMDS,
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


def detectors(shared: bool) -> dict[str, Detector]:
    toy = Toy()
    info = toy.info(toy.train().labels)
    made = {name: make() for name, make in MAKE.items()}
    if shared:
        info = info.sharing()
    for detector in made.values():
        detector.setup(info)
    return made


def batches() -> list[Features]:
    toy = Toy()
    reads = frozenset(view for d in detectors(False).values() for part in d.family() for view in part.views)
    features = toy(toy.train(), Reads(taps=frozenset({"last"}), views=reads))
    return [features.select(slice(a, b)) for a, b in ((0, 1), (1, 120), (120, 121), (121, None))]


def updated(made: dict[str, Detector], images: Sequence[Features]) -> dict[str, Detector]:
    for batch in images:
        for detector in made.values():
            detector.update(batch)
    return made


def fitted(made: dict[str, Detector]) -> dict[str, Fitted]:
    found: dict[str, Fitted] = {}
    for name, detector in made.items():
        found[name] = taken(found, detector.compute())
    return found


def same(found: dict[str, Fitted], expected: dict[str, Fitted]) -> None:
    for name, tensors in expected.items():
        assert tensors.keys() == found[name].keys()
        for key, value in tensors.items():
            torch.testing.assert_close(found[name][key], value, msg=lambda text, at=f"{name} {key}": f"{at}: {text}")


def test_each_fits_what_it_fits_alone() -> None:
    images = batches()
    alone = fitted(updated(detectors(False), images))
    together = updated(detectors(True), images)
    same(fitted(together), alone)
    for detector in together.values():
        detector.reset()
    same(fitted(updated(together, images)), alone)


def test_two_processes_fit_as_one() -> None:
    images = batches()
    first, second = updated(detectors(True), images[:2]), updated(detectors(True), images[2:])
    fitted(first)  # what is merged later counts all the same
    for name, detector in first.items():
        detector.merge_state(second[name])
    same(fitted(first), fitted(updated(detectors(False), images)))


def test_a_bank_is_held_and_multiplied_with_once() -> None:
    images = batches()
    found = fitted(updated(detectors(True), images))
    banks = [found["knn"]["bank"], found["nnguide"]["bank"], found["nap knn"]["base.bank"], found["fusion"]["knn.bank"]]
    assert len({bank.data_ptr() for bank in banks}) == 1
    others = [found["another seed"]["bank"], found["fusion apart"]["knn.bank"]]
    assert len({bank.data_ptr() for bank in [*banks, *others]}) == 3
    assert found["search"]["of.bank"] is found["fusion apart"]["knn.bank"], "they set the same images aside"
    assert images[1].similarity(banks[0]) is images[1].similarity(banks[1])
    expected = images[1].direction @ banks[0].T
    assert torch.equal(images[1].similarity(banks[0]), expected)
