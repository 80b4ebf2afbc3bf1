"""Detectors that declare to read no logits score the same whatever logits and classifier are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.combine.fusion import Fusion
from lightning_ood.detectors.ctm import CTM
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.neco import NECO
from lightning_ood.features import Features
from lightning_ood.testing.toy import Toy

WITHOUT = {name: kind for name, kind in list_detectors().items() if not kind().needs_logits}
MORE: dict[str, Callable[[], Detector]] = {
    "neco without the logit": lambda: NECO(use_logit=False),
    "fusion": lambda: Fusion({"knn": KNN(), "nap": NAP()}),
}


def test_which() -> None:
    known = {"CoP", "CoRP", "CTM", "FeatureNorm", "GMM", "KNN", "Layers", "MDS", "NAP", "RMDS"}
    assert set(WITHOUT) == known
    assert CTM("predicted").needs_logits and NECO().needs_logits and NAP(list_detectors()["MSP"]()).needs_logits


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("make", [*WITHOUT.values(), *MORE.values()], ids=[*WITHOUT, *MORE])
def test_logits_change_nothing(make: Callable[[], Detector], attention: bool) -> None:
    toy = Toy(attention=attention)

    def scores(changed: bool) -> torch.Tensor:
        def given(features: Features) -> Features:
            if not changed:
                return features
            views = {view: given(inner) for view, inner in features.views.items()}
            return replace(features, logits=torch.zeros_like(features.logits), head=None, views=views)

        detector = make()
        info = toy.info(toy.train().labels)
        detector.setup(replace(info, head=None) if changed else info)
        detector.update(given(toy(toy.train(), detector.reads)))
        fitted = detector.compute()
        return detector.score(given(toy(toy.id_test(), replace(detector.reads, views=()))), fitted)

    assert torch.equal(scores(False), scores(True))
