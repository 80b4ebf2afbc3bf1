"""Scores of every detector on five networks' ID, OOD and changed images, once: rules.py joins them offline.

python experiments/fusion/scores.py densenet resnet20 lite0 digits digits_vit … [--root data] [--runs runs/fusion]

Writes RUNS/NETWORK.parquet: a row per image, with ``set`` (train, test, an OOD set or ``view …``), ``half`` and
a column per detector. Each detector is fitted twice: on all training images (``half`` all), and on 80 % of them
(``half`` part), where ``train`` and the views have the others alone. The digits networks are read from
RUNS/NETWORK/checkpoints/trained.ckpt, which `train.py fit --trainer.default_root_dir RUNS/NETWORK` leaves.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_ood.backbone import Backbone
from lightning_ood.data.datamodule import data_root
from lightning_ood.data.digits import Digits, Patches
from lightning_ood.data.opening import open_set
from lightning_ood.data.sets import ImageSet
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.calibration import split
from lightning_ood.detectors.combine.layers import Layers
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.gmm import GMM
from lightning_ood.detectors.gram import Gram
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.residual import Residual
from lightning_ood.detectors.vim import ViM
from lightning_ood.features import Features
from lightning_ood.networks import cifar
from lightning_ood.networks.build import build
from lightning_ood.ops.memory import keep_freed_memory
from lightning_ood.suite import DetectorSuite
from lightning_ood.views import Blur, Invert, Jigsaw, Noise, Rotate, View

CONFIGS = Path(__file__).parents[2] / "configs"
CIFAR: dict[str, Any] = {
    "train": "cifar10/train",
    "test": "cifar10/test",
    "ood": {"tiny_imagenet": "tiny_imagenet", "textures": "textures", "sun": "sun"},
}
DIGITS: dict[str, Any] = {
    "train": Digits("train"),
    "test": Digits("test"),
    "ood": {
        "digits_8_9": Digits("all", digits=[8, 9]),
        "photographs": Patches("photographs"),
        "textures": Patches("textures"),
    },
}
IMAGENET: dict[str, Any] = {
    "train": "imagenet/train",
    "test": "imagenet/test.txt",
    "ood": {"textures": "imagenet/textures", "scenes": "imagenet/scenes"},
}
VIEWS: tuple[View, ...] = (Jigsaw(2), Jigsaw(3), Rotate(), Noise(0.5), Invert(), Blur())
EVERY = 4  # views are of every fourth training image
HELD_OUT, BATCH = 0.2, 50


def make(network: str, root: Path, runs: Path) -> tuple[Any, dict[str, Any]]:
    """Returns a network with its weights, and its data sets."""
    if network == "densenet":
        weights = "checkpoints/densenet_bc_100_12_cifar10.pth.tar"
        return build(network=cifar.DenseNet(), weights=weights, root=root), CIFAR
    if network == "resnet20":
        return build(network=cifar.ResNet20(), weights="checkpoints/resnet20_cifar10.th", root=root), CIFAR
    if network == "lite0":
        weights = "checkpoints/tf_efficientnet_lite0.in1k.safetensors"
        return build("timm:tf_efficientnet_lite0", weights=weights, root=root), IMAGENET
    model = yaml.safe_load((runs / network / "config.yaml").read_text())["model"]
    weights = str((runs / network / "checkpoints/trained.ckpt").resolve())
    changes = {key: value for key, value in (model["preprocess"] or {}).items() if value is not None}
    return build(
        model["name"], weights=weights, options=model["options"], preprocess={**changes, "resize": None}
    ), DIGITS


def detectors() -> dict[str, Detector]:
    """Returns the detectors of ``configs/suites/all.yaml`` that need no perturbed image, and the variants."""
    list_detectors()  # a class can be named once it is imported
    parser = ArgumentParser()
    parser.add_argument("--one", type=Detector)
    paths = yaml.safe_load((CONFIGS / "suites/all.yaml").read_text())["scoring"]["detectors"]
    every = {}
    for name, of in paths.items():
        written = yaml.safe_load((CONFIGS / "suites" / of).read_text()) if isinstance(of, str) else of
        parsed = parser.parse_object({"one": written})
        every[name] = parser.instantiate_classes(parsed).one
    return {name: one for name, one in every.items() if not one.extra_forwards["test"]} | variants()


def variants() -> dict[str, Detector]:
    """Returns detectors with other arguments than in ``configs/detectors``: no jigsaw, shrinkage, normalisation."""
    return {
        "feature_norm_last": FeatureNorm(block="last"),
        "block_norm_last": BlockNorm(Energy(), FeatureNorm(block="last")),
        "mds_pp_oas": MDS(1.0, "oas"),
        "mds_oas": MDS(0.0, "oas"),
        "residual_pp": Residual(power=1.0),
        "vim_pp": ViM(power=1.0),
        "gmm_pp": GMM(power=1.0),
        "layers_mds_pp": Layers(MDS(1.0)),
        "layers_mds_oas": Layers(MDS(0.0, "oas")),
        "layers_mds_pp_oas": Layers(MDS(1.0, "oas")),
        "layers_knn": Layers(KNN(10)),
        "gram": Gram(),
    }


class Scorer:
    """Fits all detectors on a network twice, and scores sets with both fits."""

    def __init__(self, network: str, root: Path, runs: Path) -> None:
        built, self.sets = make(network, root, runs)
        self.root, self.transform = root, built.preprocess.transform()
        pre = built.preprocess
        self.backbone = Backbone(built.network.eval(), pre.size, mean=pre.mean, std=pre.std)
        self.suites = {half: DetectorSuite(detectors()) for half in ("all", "part")}
        self.tables: list[pd.DataFrame] = []

    def open(self, spec: Any) -> ImageSet:
        return open_set(spec, self.root, self.transform)

    def batches(self, images: ImageSet, every: int = 1, view: View | None = None) -> Any:
        for chosen in torch.arange(0, len(images), every).split(BATCH):
            items = [images[i] for i in chosen.tolist()]
            pixels = torch.stack([item.image for item in items if item.image is not None])
            labels = torch.tensor([item.label if item.label is not None else -1 for item in items])
            yield self.backbone(view(pixels, chosen) if view else pixels, labels, chosen)

    def fit(self) -> None:
        train = self.open(self.sets["train"])
        labels = torch.tensor([train[i].label for i in range(len(train))])
        info = self.backbone.info(labels)
        self.suites["all"].setup(info)
        self.suites["part"].setup(info.holding_out())
        self.backbone.configure(self.suites["all"].reads("fit"))
        for batch in self.batches(train):
            self.suites["all"].update(batch)
            self.suites["part"].update(split(batch, HELD_OUT, 0)[0])
        for half, suite in self.suites.items():
            for name, error in suite.compute().items():
                print(half, name, error, flush=True)
                del suite.detectors[name]
        self.backbone.configure(self.suites["all"].reads("test"))

    def score(self, name: str, images: ImageSet, every: int = 1, view: View | None = None) -> None:
        for batch in self.batches(images, every, view):
            for half, suite in self.suites.items():
                some = split(batch, HELD_OUT, 0)[1] if half == "part" and (view or name == "train") else batch
                if len(some):
                    self.tables.append(self.table(name, half, some, suite))

    @staticmethod
    def table(name: str, half: str, batch: Features, suite: DetectorSuite) -> pd.DataFrame:
        table = pd.DataFrame(suite.score(batch).numpy(), columns=list(suite.detectors))
        right = batch.labels == batch.prediction if batch.labels is not None else None
        return table.assign(set=name, half=half, correct=None if right is None else right.numpy())

    @torch.no_grad()
    def run(self) -> pd.DataFrame:
        self.fit()
        for name in ("train", "test"):
            self.score(name, self.open(self.sets[name]))
        for name, spec in self.sets["ood"].items():
            self.score(name, self.open(spec))
        for view in VIEWS:
            self.score(f"view {view}", self.open(self.sets["train"]), EVERY, view)
        return pd.concat(self.tables, ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--root", default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/fusion"))
    given = parser.parse_args()
    keep_freed_memory()
    for network in given.networks:
        began = time.time()
        table = Scorer(network, data_root(given.root), given.runs).run()
        given.runs.mkdir(parents=True, exist_ok=True)
        table.to_parquet(given.runs / f"{network}.parquet")
        print(network, table.groupby(["half", "set"]).size().to_dict(), f"{time.time() - began:.0f} s", flush=True)
