"""The building blocks of the CIFAR networks that torchvision does not have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Bottleneck layer of DenseNet-BC: appends ``growth`` channels to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C + growth, H, W]``."""
        y = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(y)))], dim=1)


class DenseBlock(nn.Module):
    """Dense layers in a row: ``layers * growth`` more channels."""

    def __init__(self, layers: int, channels: int, growth: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        return self.layer(x)


class Transition(nn.Module):
    """Compresses the channels and halves the side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: takes every second pixel and fills the new channels with zeros, half on each side."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class PreActivation(nn.Module):
    """Pre-activation residual unit; where the width changes, the shortcut starts after the first activation."""

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        active = F.relu(self.bn1(x))
        y = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideBlock(nn.Module):
    """Units of one width in a row; the first changes stride and width."""

    def __init__(self, units: int, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = PreActivation(channels, out, stride, dropout)
        self.layer = nn.Sequential(first, *(PreActivation(out, out, 1, dropout) for _ in range(units - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        return self.layer(x)
