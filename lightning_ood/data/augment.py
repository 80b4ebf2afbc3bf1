"""Random changes to training images, before the model's preprocessing."""

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
