"""Data sets as users have them, by class path: labels that only items tell, and labels of other tasks."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from tests.helpers.tiny import Images


class ByItem(Dataset[Any]):
    """Images whose label only ``__getitem__`` tells."""

    classes_of_labels = 4

    def __init__(self, size: int = 60, shift: int = 0) -> None:
        self.images = Images(size, self.classes_of_labels, shift, seed=7)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.images[index]
        return image, self.label(label)

    def label(self, label: int) -> Any:
        return label


class Unlabelled(ByItem):
    """Images without labels."""

    def label(self, label: int) -> Any:
        return None


class FromOne(ByItem):
    """Labels from 1 to 4."""

    def label(self, label: int) -> Any:
        return label + 1


class SevenClasses(ByItem):
    """More classes than the network has logits."""

    classes_of_labels = 7


class Boxes(ByItem):
    """Boxes of objects, as torchvision's ``CocoDetection`` gives them."""

    def __init__(self, size: int = 30, shift: int = 90) -> None:
        super().__init__(size, shift)

    def label(self, label: int) -> Any:
        return [{"category_id": 3, "bbox": [0, 0, 1, 1]}]
