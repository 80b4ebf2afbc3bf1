"""Fits and scores detectors on a network with a few images, without a trainer, and finds those that cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from lightning_ood.features import NetworkInfo
from lightning_ood.suite import DetectorSuite


@dataclass(frozen=True)
class Model:
    """A published network of random weights.

    Attributes:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        family: name of the family of networks, for the table.
        side: side of the images of the small version, in pixels.
        small: options of a cheap version that still has every kind of layer.
    """

    name: str
    family: str
    side: int = 64
    small: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **options: Any) -> nn.Module:
        """Builds the network in eval mode, with weights drawn with seed 0."""
        library, name = self.name.split(":")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if library == "timm":
                network: nn.Module = timm.create_model(name, **options)
            else:
                network = torchvision.models.get_model(name, weights=None, **options)
        return network.eval()

    def build_small(self, classes: int = 7) -> nn.Module:
        """Builds the small version."""
        return self.build(num_classes=classes, **self.small)

    def size(self) -> tuple[int, int]:
        """Returns ``(H, W)`` of the images that the network was published for."""
        library, name = self.name.split(":")
        if library == "timm":
            published: Any = timm.get_pretrained_cfg(name)
            _, height, width = published.input_size
            return height, width
        side = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        return side, side


def refusals(detectors: Mapping[str, Detector], info: NetworkInfo) -> dict[str, str]:
    """Sets up detectors; maps the name of each one that does not suit the network or the fit set to the reason."""
    reasons = {}
    for name, detector in detectors.items():
        try:
            detector.setup(info)
        except InputError as error:
            reasons[name] = str(error)
    return reasons


def scores(
    backbone: Backbone,
    detectors: Mapping[str, Detector],
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    passes: int = 1,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fits detectors on training images and scores test images, without a trainer.

    Args:
        backbone: a backbone of any classifier.
        detectors: name -> detector.
        train: ``[N, 3, H, W]`` preprocessed training images, used as one batch.
        labels: ``[N]``, their labels.
        test: ``[B, 3, H, W]`` preprocessed test images.
        passes: how often the training images are added to the fit, each time with other indices.

    Returns:
        name -> scores ``[B]``, and name -> reason for the detectors that cannot run on the network.
    """
    info = backbone.info(labels.repeat(passes))
    refused = refusals(detectors, info)
    suite = DetectorSuite({name: detector for name, detector in detectors.items() if name not in refused})
    suite.setup(info)
    backbone.configure(suite.reads("fit"))
    features = backbone(train, labels)
    for first in range(0, passes * len(train), len(train)):
        suite.update(replace(features, index=torch.arange(first, first + len(train))))
    for error in suite.compute().values():
        raise error
    backbone.configure(suite.reads("test"))
    columns = suite.score(backbone(test)).unbind(dim=1)  # [B, detectors] -> [B] each
    return dict(zip(suite.detectors, columns, strict=True)), refused
