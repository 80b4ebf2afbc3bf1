"""The networks of the papers' CIFAR tables, for 32x32 images, reading the weight files that were published for them.

``DenseNet`` (DenseNet-BC-100-12), ``ResNet20``, ``ResNet18`` (3x3 stem) and ``WideResNet`` (28-10 and 40-2).

Each class carries, besides its layers,

* ``default_cfg``: its preprocessing in timm's words (``input_size``, ``mean``, ``std``, ...),
* ``blocks``: the names of the modules whose outputs are its blocks, in order of execution, the last map at the end,
* ``renamed``: parts of parameter names in the published files and what they are called here.

No ReLU writes into a map that a block has given out, so forward hooks may keep block outputs without a copy.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from lightning_ood.networks.cifar_layers import DenseBlock, PadShortcut, Transition, WideBlock

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)


def _config(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    return {
        "input_size": (3, 32, 32),
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "classifier": "fc",
    }


def _initialise(network: nn.Module) -> None:
    """He et al. 2015 for convolutions; batch norms start as identity; the classifier's bias at zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class DenseNet(nn.Module):
    """DenseNet-BC for CIFAR (Huang et al. 2017, https://arxiv.org/abs/1608.06993), depth 100 and growth 12 by default.

    The network behind the CIFAR tables of ReAct, DICE, ASH, LINe and NAP. Reads the file
    ``densenet100_cifar10.pth`` of https://github.com/deeplearning-wisc/dice as it is. The classifier sees 342 features,
    the mean of the 8x8 map that ``relu`` gives out.

    Args:
        num_classes: outputs of the classifier.
        depth: number of layers, ``6 n + 4``.
        growth: channels that a layer adds.
        reduction: share of the channels that a transition keeps.
    """

    default_cfg = _config(_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010))
    blocks = ("transition1", "transition2", "relu")
    renamed: Mapping[str, str] = {"trans1": "transition1", "trans2": "transition2"}

    def __init__(self, num_classes: int = 10, depth: int = 100, growth: int = 12, reduction: float = 0.5) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if layers < 1 or rest:
            raise ValueError(f"the depth of DenseNet-BC is 6 n + 4, not {depth}")
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.block1, channels = DenseBlock(layers, channels, growth), channels + layers * growth
        self.transition1, channels = Transition(channels, int(channels * reduction)), int(channels * reduction)
        self.block2, channels = DenseBlock(layers, channels, growth), channels + layers * growth
        self.transition2, channels = Transition(channels, int(channels * reduction)), int(channels * reduction)
        self.block3, channels = DenseBlock(layers, channels, growth), channels + layers * growth
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, 32, 32]`` -> logits ``[B, K]``."""
        x = self.transition1(self.block1(self.conv1(x)))
        x = self.transition2(self.block2(x))
        x = self.relu(self.bn1(self.block3(x)))
        return self.fc(self.avgpool(x).flatten(1))


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR with parameter-free shortcuts (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Reads the files of https://github.com/akamaster/pytorch_resnet_cifar10 as they are, ``depth`` 32 ... 110 too.

    Args:
        num_classes: outputs of the classifier.
        depth: number of layers, ``6 n + 2``.
    """

    default_cfg = _config((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    renamed: Mapping[str, str] = {"linear": "fc"}

    def __init__(self, num_classes: int = 10, depth: int = 20) -> None:
        super().__init__()
        units, rest = divmod(depth - 2, 6)
        if units < 1 or rest:
            raise ValueError(f"the depth of a CIFAR ResNet is 6 n + 2, not {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16) for _ in range(units)))
        self.layer2 = self._narrower(32, units)
        self.layer3 = self._narrower(64, units)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        self.blocks = tuple(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(units))
        _initialise(self)

    @staticmethod
    def _narrower(width: int, units: int) -> nn.Sequential:
        """A stage of half the side and twice the width of the one before."""
        first = BasicBlock(width // 2, width, stride=2, downsample=PadShortcut(width // 2))
        return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(units - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, 32, 32]`` -> logits ``[B, K]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


class ResNet18(ResNet):
    """ResNet-18 with a 3x3 stem and no max pooling: torchvision's, as OpenOOD v1.5 changes it for 32x32 images.

    Reads OpenOOD's ``resnet18_32x32`` files (https://github.com/Jingkang50/OpenOOD). ``default_cfg`` holds its CIFAR-10
    normalisation; for CIFAR-100 it uses mean (0.5071, 0.4867, 0.4408) and std (0.2675, 0.2565, 0.2761).

    Args:
        num_classes: outputs of the classifier.
    """

    default_cfg = _config(_CIFAR10_MEAN, (0.2470, 0.2435, 0.2616))
    blocks = tuple(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1))
    renamed: Mapping[str, str] = {"shortcut": "downsample", "linear": "fc"}

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        _initialise(self)


class WideResNet(nn.Module):
    """Wide ResNet (Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146): WRN-28-10, WRN-40-2 and others.

    Parameter names follow the layout that Outlier Exposure, Energy and OpenOOD publish. Block outputs are sums before
    the next activation, hence signed; ``relu`` gives the last map.

    Args:
        depth: number of layers, ``6 n + 4``.
        width: factor on the channels 16, 32, 64.
        num_classes: outputs of the classifier.
        dropout: probability between the convolutions of a unit, in training.
    """

    default_cfg = _config(_CIFAR10_MEAN, (0.2470, 0.2435, 0.2616))
    renamed: Mapping[str, str] = {"convShortcut": "shortcut"}

    def __init__(self, depth: int = 28, width: int = 10, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        units, rest = divmod(depth - 4, 6)
        if units < 1 or rest:
            raise ValueError(f"the depth of a Wide ResNet is 6 n + 4, not {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = WideBlock(units, 16, 16 * width, 1, dropout)
        self.block2 = WideBlock(units, 16 * width, 32 * width, 2, dropout)
        self.block3 = WideBlock(units, 32 * width, 64 * width, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)
        self.blocks = (*(f"block{i}.layer.{j}" for i in (1, 2, 3) for j in range(units)), "relu")
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, 32, 32]`` -> logits ``[B, K]``."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))
