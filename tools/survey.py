"""What runs on a network: every detector, fitted and scored on a few images without a trainer, or why it cannot be."""

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
        family: of networks, for people.
        side: of the images of its small version.
        small: options that make it cheap while every kind of layer stays.
    """

    name: str
    family: str
    side: int = 64
    small: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **options: Any) -> nn.Module:
        """The network in eval mode, its weights drawn with seed 0."""
        library, name = self.name.split(":")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if library == "timm":
                network: nn.Module = timm.create_model(name, **options)
            else:
                network = torchvision.models.get_model(name, weights=None, **options)
        return network.eval()

    def build_small(self, classes: int = 7) -> nn.Module:
        """The small version."""
        return self.build(num_classes=classes, **self.small)

    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the images it was published for."""
        library, name = self.name.split(":")
        if library == "timm":
            published: Any = timm.get_pretrained_cfg(name)
            _, height, width = published.input_size
            return height, width
        side = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        return side, side


def refusals(detectors: Mapping[str, Detector], info: NetworkInfo) -> dict[str, str]:
    """Sets detectors up; returns which of them a network or a fit set does not serve, and why."""
    found = {}
    for name, detector in detectors.items():
        try:
            detector.setup(info)
        except InputError as error:
            found[name] = str(error)
    return found


def scores(
    backbone: Backbone,
    detectors: Mapping[str, Detector],
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    passes: int = 1,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fits detectors on images and scores others, without a trainer.

    Args:
        backbone: of any classifier.
        detectors: name -> detector.
        train: ``[N, 3, H, W]`` preprocessed training images, taken as one batch.
        labels: ``[N]`` of them.
        test: ``[B, 3, H, W]``.
        passes: how often the detectors are shown the training images, each time as other ones of the set.

    Returns:
        name -> scores ``[B]``, and name -> reason for the detectors that the network does not serve.
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
    found = suite.score(backbone(test))
    return dict(zip(suite.detectors, found.unbind(dim=1), strict=True)), refused
