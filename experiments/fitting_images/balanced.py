"""A class-balanced part of a folder of class folders: how many images a detector is fitted on, as an argument."""

from __future__ import annotations

import torch
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from lightning_ood.detectors.nac import balanced_subset


class Balanced(Subset):
    """As many images of each class, drawn by a hash; a larger part holds the smaller ones.

    Args:
        root: the folder; relative paths start from the data's root.
        images: how many in all.
        seed: draws others.
    """

    def __init__(self, root: str = "cifar10/train", images: int = 1000, seed: int = 0) -> None:
        folder = ImageFolder(root)
        chosen = balanced_subset(torch.tensor(folder.targets), images, seed)
        super().__init__(folder, chosen.nonzero().flatten().tolist())
