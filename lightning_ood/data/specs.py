"""The types with which a config names image sets, and a test set with its role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch.utils.data import Dataset

from lightning_ood.data.files import ImageList
from lightning_ood.data.sets import ImageSet

# In this order: a type that jsonargparse tries in vain before Dataset empties the arguments that were given before.
Spec = str | Dataset | ImageList


@dataclass
class IDSets:
    """The in-distribution set.

    A set is a folder of class folders, a folder of images, an image list ``*.txt`` (or ``{list: …, folder: …}``, where
    its paths start from a folder of their own) or a map-style Dataset.

    Attributes:
        train: images that detectors are fitted on, and that a small network is trained on.
        test: images that are scored.
        val: images that validate each epoch of a training; optional.
        name: its name in the tables.
        calibration: images that ``export`` calibrates on, in neither of the others; optional.
    """

    train: Spec
    test: Spec
    val: Spec | None = None
    name: str = "id"
    calibration: Spec | None = None


@dataclass(frozen=True)
class TestSet:
    """A set that is scored.

    Attributes:
        name: its name in the tables.
        role: id, csid (covariate-shifted ID) or ood.
        group: ``id``, ``csid``, or the name of its group (near, far, …).
        images: the images, their paths and labels.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    name: str
    role: Literal["id", "csid", "ood"]
    group: str
    images: ImageSet
