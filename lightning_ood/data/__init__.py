"""Images in: sets of any kind, batches, exact sampling, and real images for a first run."""

from lightning_ood.data.digits import Digits, Patches
from lightning_ood.data.downloads import FirstOfEachClass
from lightning_ood.data.files import ImageList
from lightning_ood.data.images import load_image, to_image
from lightning_ood.data.sampling import ExactSampler
from lightning_ood.data.sets import Batch, ImageSet, Item, collate, open_set

__all__ = [
    "Batch",
    "Digits",
    "ExactSampler",
    "FirstOfEachClass",
    "ImageList",
    "ImageSet",
    "Item",
    "Patches",
    "collate",
    "load_image",
    "open_set",
    "to_image",
]
