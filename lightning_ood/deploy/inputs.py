"""Anything that holds images to named RGB images: paths, folders, PIL images, arrays, tensors, iterables of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_ood.data.folders import Walk
from lightning_ood.data.images import ImageError, load_image, to_image
from lightning_ood.data.rows import RowSet, is_table
from lightning_ood.errors import InputError

MAGIC = frozenset("*?[")


class Named(NamedTuple):
    """An image that is still to be decoded.

    Attributes:
        name: its path, or its position among the images that are no files.
        image: a path, PIL image, array ``[H, W(, C)]``, tensor ``[(C,) H, W]``, or row ``[K + D]`` of stored features.
    """

    name: str
    image: Any


def named(images: Any) -> Iterator[Named]:
    """Yields the images of a path, folder, table of features, PIL image, array, tensor, or iterable of these, in order.

    An array ``[B, H, W, C]`` and a tensor ``[B, C, H, W]`` are batches.

    Raises:
        InputError: if there is something that is no image.
    """
    for position, (name, image) in enumerate(_flat(images)):
        yield Named(name or str(position), image)


def _flat(images: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(images, str | os.PathLike):
        path = Path(images)
        if path.is_dir():
            yield from ((str(file), file) for file in Walk().below(path))
        elif is_table(path):
            rows = RowSet(path, labelled=False)
            yield from ((f"{path}[{i}]", rows[i].image) for i in range(len(rows)))
        else:
            yield str(images), path
    elif isinstance(images, Image.Image):
        yield "", images
    elif isinstance(images, Tensor | np.ndarray):
        yield from (("", image) for image in images) if images.ndim == 4 else (("", images),)
    elif isinstance(images, Iterable):
        for image in images:
            yield from _flat(image)
    else:
        raise InputError(
            f"a {type(images).__name__} is no image: give a path, a folder, a PIL image, an array [H, W, C], a tensor "
            "[C, H, W], a batch of them, or an iterable"
        )


def decode(image: Any, upright: bool = False) -> Image.Image:
    """Decodes a path, PIL image, array or tensor to 8-bit RGB.

    Raises:
        ImageError: if it cannot be read.
    """
    if isinstance(image, Path):
        return load_image(image, upright)
    try:
        return to_image(image, upright)
    except ImageError:
        raise
    except (ValueError, OSError, SyntaxError) as error:
        raise ImageError(str(error)) from error


def expand(words: Iterable[str], lines: Iterable[str] = ()) -> list[str]:
    """Expands the arguments of the command line to image files, in order.

    Args:
        words: files, folders, patterns with ``*``, ``?`` or ``[``, and ``-`` for a list.
        lines: the list that ``-`` stands for, a path per line.

    Raises:
        InputError: if a folder has no image or a pattern matches nothing.
    """
    found: list[str] = []
    for word in words:
        path = Path(word)
        if word == "-":
            found += [line.strip() for line in lines if line.strip()]
        elif path.is_dir():
            files = [str(file) for file in Walk().below(path)]
            if not files:
                raise InputError(f"{word}: no images in this folder")
            found += files
        elif MAGIC & set(word) and not path.exists():
            files = sorted(glob.glob(word, recursive=True))  # noqa: PTH207  # a pattern may be absolute
            files = [file for file in files if Path(file).is_file()]
            if not files:
                raise InputError(f"{word}: no file matches this pattern")
            found += files
        else:
            found.append(word)
    return found
