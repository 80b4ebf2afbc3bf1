"""Networks and groups of detectors that the benchmark measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.ash import ASH
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.combine.fusion import Fusion, RobustZ
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.entropy import Entropy
from lightning_ood.detectors.fdbd import FDBD
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.gen import GEN
from lightning_ood.detectors.gradnorm import GradNorm
from lightning_ood.detectors.kl_matching import KLMatching
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.nci import NCI
from lightning_ood.detectors.nnguide import NNGuide
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.detectors.residual import Residual
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.detectors.scale import SCALE
from lightning_ood.detectors.she import SHE
from lightning_ood.detectors.vim import ViM
from lightning_ood.detectors.vra import VRA
from lightning_ood.networks.cifar import DenseNet

BANK = 4096
Suite = dict[str, Detector]


@dataclass(frozen=True)
class Network:
    """A network with random weights: what the passes cost does not depend on them.

    Attributes:
        make: builds it.
        size: pixels per side.
        batch: images per batch.
        layers: the maps that four-layer NAC reads beside the penultimate feature.
    """

    make: Callable[[], nn.Module]
    size: int
    batch: int
    layers: tuple[str, ...]

    def backbone(self, device: str, channels_last: bool = False, compile: str | None = None) -> Backbone:
        """Ready to be read."""
        torch.manual_seed(0)
        network = self.make().eval().requires_grad_(False).to(device)
        return Backbone(network, (self.size, self.size), channels_last=channels_last, compile=compile)


def _vit_layers(*blocks: int) -> tuple[str, ...]:
    return tuple(f"blocks.{i}" for i in blocks)


NETWORKS = {
    "resnet18": Network(lambda: timm.create_model("resnet18", num_classes=10), 64, 128, ("layer3", "layer2", "layer1")),
    # 32 to a batch: with 128 its concatenated maps leave the cache, and an image takes twice as long.
    "densenet": Network(DenseNet, 32, 32, ("last", "transition2", "transition1")),
    "vit_tiny": Network(
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=100), 224, 64, _vit_layers(11, 10, 9)
    ),
    "resnet50": Network(torchvision.models.resnet50, 224, 256, ("layer3", "layer2", "layer1")),
    "vit_b_16": Network(lambda: timm.create_model("vit_base_patch16_224"), 224, 256, _vit_layers(11, 10, 9)),
}


def shared(bank: int = BANK) -> Suite:
    """The 18 methods that pytorch-ood has too."""
    return {
        "msp": MSP(),
        "maxlogit": MaxLogit(),
        "energy": Energy(),
        "gen": GEN(),
        "kl_matching": KLMatching(),
        "react": ReAct(),
        "ash": ASH(),
        "scale": SCALE(),
        "vra": VRA(),
        "dice": DICE(),
        "knn": KNN(bank_size=bank),
        "vim": ViM(),
        "mds": MDS(),
        "rmds": RMDS(),
        "she": SHE(),
        "nnguide": NNGuide(bank_size=bank),
        "fdbd": FDBD(),
        "nci": NCI(),
    }


def core() -> Suite:
    """The nine of the digits config, FeatureNorm on a block that is named: no second forward."""
    return {
        "msp": MSP(),
        "maxlogit": MaxLogit(),
        "energy": Energy(),
        "react": ReAct(),
        "dice": DICE(),
        "line": LINe(),
        "nap": NAP(),
        "nac": NAC(),
        "feature_norm": FeatureNorm(block="last"),
    }


def nac4(network: Network) -> Suite:
    """NAC with four layers: one backward per batch."""
    return nac4_of(network.layers)


def nac4_of(layers: tuple[str, ...]) -> Suite:
    """The same for maps that are named."""
    return {"nac4": NAC({"pooled": NACLayer(), **{tap: NACLayer(50, 500, 1.0) for tap in layers}})}


def everything(network: Network, bank: int = BANK) -> Suite:
    """All that needs no further view of an image: the 18, the core, four-layer NAC and the rest."""
    return {**of_last(bank), **core(), **nac4(network)}


def of_last(bank: int = BANK) -> Suite:
    """Those that read nothing before the map that is pooled."""
    rest: Suite = {
        "ash_b": ASH("b"),
        "ash_p": ASH("p"),
        "entropy": Entropy(),
        "gradnorm": GradNorm(),
        "residual": Residual(),
        "odin_0": ODIN(),
        "nap_energy": NAP(Energy()),
        "nap_knn": NAP(KNN(bank_size=bank)),
        "block_norm": BlockNorm(norm=FeatureNorm(block="last")),
        "fusion": Fusion({"nap": NAP(), "energy": Energy(), "knn": KNN(bank_size=bank)}, RobustZ()),
    }
    return {**shared(bank), **rest}


def views() -> Suite:
    """What asks for further forwards: FeatureNorm's jigsaw at fit, ODIN's step at test."""
    return {"feature_norm_jigsaw": FeatureNorm(), "odin_step": ODIN(epsilon=0.0014)}
