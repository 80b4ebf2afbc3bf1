"""Opens a data set, whatever names it: a folder, a list, a table of features, a Dataset."""

from __future__ import annotations

import os
from pathlib import Path

from torch.utils.data import Dataset

from lightning_ood.data.files import ImageList
from lightning_ood.data.rows import RowSet, is_table
from lightning_ood.data.sets import BadImages, FileSet, ImageSet, Transform, WrappedSet
from lightning_ood.errors import InputError


def open_set(
    spec: str | os.PathLike[str] | ImageList | Dataset,
    root: Path,
    transform: Transform,
    bad_images: BadImages = "error",
    labelled: bool = True,
) -> ImageSet:
    """Opens a data set; decodes nothing yet.

    Args:
        spec: a folder of class folders (labels in the order of the sorted names, as torchvision's ``ImageFolder``), a
            folder of images (no labels), an image list ``*.txt`` (a line is ``path label``, the label may be missing or
            -1), such a list and the folder its paths start from, a table of stored features (``.npz``, ``.parquet``,
            ``.safetensors``), or a map-style Dataset of images or (image, label).
        root: what relative paths start from, those inside a list too.
        transform: the preprocessing, PIL image to ``[3, H, W]``.
        bad_images: what to do with an image that cannot be read: stop, or skip and report it.
        labelled: whether to read labels; those of an OOD set mean nothing to the classifier, whatever they are.

    Raises:
        InputError: if the set is missing, empty, or not of one of these forms.
    """
    images: ImageSet
    root = root.expanduser().absolute()
    if is_table(spec):
        images = RowSet(root / Path(spec).expanduser(), labelled)  # type: ignore[arg-type]
    elif isinstance(spec, str) and spec.lstrip().startswith("{"):
        raise InputError(f"{spec}: no class that can be imported has these arguments; correct class_path or init_args")
    elif isinstance(spec, (str, os.PathLike)):
        images = FileSet(root / Path(spec).expanduser(), root, labelled=labelled)
    elif isinstance(spec, ImageList):
        images = FileSet(root / Path(spec.list).expanduser(), root, root / Path(spec.folder).expanduser(), labelled)
    elif isinstance(spec, Dataset):
        images = WrappedSet(spec, labelled)
    else:
        raise InputError(f"a data set is a path or a torch Dataset, not {type(spec).__name__}: {spec!r}")
    images.transform = transform
    images.bad_images = bad_images
    return images
