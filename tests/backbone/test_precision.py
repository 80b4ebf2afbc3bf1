"""Lower precision and other memory layouts keep the ranking of scores, on real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.opening import open_set
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.nac import NAC
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.react import ReAct
from lightning_ood.features import Reads
from lightning_ood.networks.build import build
from lightning_ood.networks.cifar import ResNet20

MAKE: dict[str, type[Detector] | object] = {
    "energy": Energy,
    "react": ReAct,
    "line": LINe,
    "nap": NAP,
    "nac": NAC,
    "feature_norm": lambda: FeatureNorm(block="last"),
    "knn": lambda: KNN(10),
    "mds": MDS,
}


def images(kit: Path, name: str, count: int, transform: object) -> tuple[Tensor, Tensor]:
    found = open_set(name, kit, transform)  # type: ignore[arg-type]
    items = [found[i] for i in range(0, len(found), len(found) // count)][:count]
    return torch.stack([item.image for item in items]), torch.tensor([item.label for item in items])  # type: ignore[misc]


@torch.inference_mode()
def scores(backbone: Backbone, train: tuple[Tensor, Tensor], test: Tensor, bf16: bool) -> dict[str, Tensor]:
    info = backbone.info(train[1]).sharing()
    detectors = {name: make() for name, make in MAKE.items()}  # type: ignore[operator]
    for detector in detectors.values():
        detector.setup(info)
    backbone.configure(Reads(("last",)))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # around the steps alone, as in a Trainer
        features, tested = backbone(*train, torch.arange(len(train[0]))), backbone(test)
    for detector in detectors.values():
        detector.update(features)
    return {name: d.score(tested, d.compute() if d.requires_fit else {}).float() for name, d in detectors.items()}


@pytest.mark.kit
@pytest.mark.slow
def test_ranking(kit: Path) -> None:
    built = build(network=ResNet20(), weights="checkpoints/resnet20_cifar10.th", root=kit)
    transform = built.preprocess.transform()
    train = images(kit, "cifar10/train", 500, transform)
    test = torch.cat([images(kit, name, 250, transform)[0] for name in ("cifar10/test", "textures")])
    network = built.network.eval().requires_grad_(False)
    exact = scores(Backbone(network, (32, 32)), train, test, False)
    for how, options, bf16 in (("channels last", {"channels_last": True}, False), ("bf16", {}, True)):
        found = scores(Backbone(network, (32, 32), **options), train, test, bf16)  # type: ignore[arg-type]
        for name, expected in exact.items():
            correlation = spearmanr(found[name].numpy(), expected.numpy()).statistic
            enough = 0.9 if bf16 and name == "nac" else 0.999  # NAC's bins are narrower than a rounding of bf16
            assert correlation > enough, f"{how}, {name}: {correlation:.5f}"
