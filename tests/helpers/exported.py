"""An exported folder of a second's work: a tiny network with fitted detectors, calibrated on 120 images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader

from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import WrappedSet, collate
from lightning_ood.deploy.export import export
from lightning_ood.detectors import KNN, NAP, Energy, Fusion
from lightning_ood.detectors.base import Detector
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.suite import DetectorSuite
from tests.helpers.tiny import Images, Net

CLASSES = ["class0", "class1", "class2", "class3"]
PREPROCESS = Preprocess((12, 12), 12, "bilinear", (0.5,) * 3, (0.5,) * 3)
NETWORK = {"class_path": "tests.helpers.tiny.Net", "init_args": {}}


def detectors() -> dict[str, Detector]:
    """Three detectors, two of which share a bank."""
    return {"fusion": Fusion({"energy": Energy(), "knn": KNN(k=5)}), "knn": KNN(k=5), "nap": NAP()}


def batches(size: int, seed: int, shift: int = 0) -> DataLoader:
    """Preprocessed images."""
    images = WrappedSet(Images(size, seed=seed, shift=shift))
    images.transform = PREPROCESS.transform()
    return DataLoader(images, batch_size=32, collate_fn=collate)


def fitted(chosen: dict[str, Detector] | None = None) -> tuple[Backbone, DetectorSuite]:
    """A tiny network and detectors that are fitted on 80 images."""
    backbone = Backbone(Net().eval().requires_grad_(False), (12, 12), mean=(0.5,) * 3, std=(0.5,) * 3)
    suite = DetectorSuite(chosen or detectors())
    suite.setup(backbone.info(torch.tensor(Images(80).targets)))
    backbone.configure(suite.reads("fit"))
    with torch.inference_mode():
        for batch in batches(80, 0):
            suite.update(backbone(batch.image, batch.label, batch.index))
        assert not suite.compute()
    return backbone, suite


def write(
    output: Path,
    chosen: dict[str, Detector] | None = None,
    size: int = 120,
    graph: Literal["onnx", "torch"] | None = None,
) -> Path:
    """Fits and exports, calibrated on ``size`` images."""
    backbone, suite = fitted(chosen)
    try:
        loader, origin = batches(size, 1), f"{size} images of a test"
        arguments = {"origin": origin, "classes": CLASSES, "graph": graph}
        return export(output, backbone, NETWORK, PREPROCESS, suite, loader, **arguments)  # type: ignore[arg-type]
    finally:
        backbone.close()
