"""Images in: sets of any kind, batches, exact sampling, and real images for a first run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_ood.data.digits import Digits, Patches
    from lightning_ood.data.downloads import FirstOfEachClass
    from lightning_ood.data.files import ImageList
    from lightning_ood.data.images import load_image, to_image
    from lightning_ood.data.opening import open_set
    from lightning_ood.data.sampling import ExactSampler
    from lightning_ood.data.sets import Batch, ImageSet, Item, collate

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

_MODULES = {
    "Batch": "sets",
    "Digits": "digits",
    "ExactSampler": "sampling",
    "FirstOfEachClass": "downloads",
    "ImageList": "files",
    "ImageSet": "sets",
    "Item": "sets",
    "Patches": "digits",
    "collate": "sets",
    "load_image": "images",
    "open_set": "opening",
    "to_image": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
