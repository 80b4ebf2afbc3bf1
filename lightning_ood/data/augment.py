"""Transforms around the model's preprocessing: augmentation, and a bypass for images of the input size."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision import transforms

from lightning_ood.data.sets import Transform
from lightning_ood.errors import InputError

CHANGES = ("crop", "flip")


@dataclass(frozen=True)
class Augment:
    """Changes an image at random, then preprocesses it. On 32x32 images CIFAR's usual recipe: pad by 4, crop, flip.

    Attributes:
        transform: the preprocessing.
        changes: crop (pad each side by an eighth with black, cut out the old size) and flip (left to right).
    """

    transform: Transform
    changes: tuple[str, ...] = CHANGES

    def __post_init__(self) -> None:
        if unknown := set(self.changes) - set(CHANGES):
            raise InputError(f"augment: no such change {', '.join(sorted(unknown))}; there are {', '.join(CHANGES)}")

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> ``[3, H, W]``."""
        width, height = image.size
        if "crop" in self.changes:
            image = transforms.RandomCrop((height, width), padding=(width // 8, height // 8))(image)
        if "flip" in self.changes:
            image = transforms.RandomHorizontalFlip()(image)
        return self.transform(image)


@dataclass(frozen=True)
class KeepSize:
    """Preprocesses, but takes an image that has the size of the network's input as it is.

    ImageNet-C is stored as the 224x224 crops that its corruptions were drawn on: resizing them to 256 and cropping
    again would change what was corrupted. OpenOOD does the same.

    Attributes:
        transform: the preprocessing of other images.
        plain: the same without a resize.
        size: ``(height, width)`` of the network's input.
    """

    transform: Transform
    plain: Transform
    size: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> ``[3, H, W]``."""
        return (self.plain if (image.height, image.width) == tuple(self.size) else self.transform)(image)
