"""Real images that come inside scikit-learn and scikit-image: a first run needs no download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from lightning_ood.data.images import load_image
from lightning_ood.errors import InputError
from lightning_ood.ops.hashing import hash_index

SIZE = 32
TEST_SHARE = 0.25
REDUCE = 3  # a patch of 32 pixels covers 96 of the photograph: enough to hold content
STRIDE = 8  # patches start on this grid of the reduced image, so no two are the same

SOURCES = {
    "photographs": ("china", "flower", "astronaut", "chelsea", "coffee", "motorcycle_left", "rocket"),
    "textures": ("brick", "grass", "gravel", "ihc"),
}


class Embedded(Dataset[tuple[Image.Image, int]]):
    """A map-style set of (32x32 RGB PIL image, label), held in memory.

    Attributes:
        pixels: ``[N, 32, 32, 3]`` uint8.
        targets: the N labels.
        classes: their names.
    """

    def __init__(self, pixels: np.ndarray, targets: list[int], classes: list[str]) -> None:
        self.pixels = pixels
        self.targets = targets
        self.classes = classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.targets[index]


class Digits(Embedded):
    """Handwritten digits of the UCI Optical Recognition set (scikit-learn's ``load_digits``, 1797 images of 8x8).

    Upsampled to 32x32 by bilinear interpolation. A quarter of each digit's images, drawn by a fixed seed, is the test
    split. Labels are positions in ``digits``.

    Args:
        split: train, test or all.
        digits: which digits, in the order of their labels.
        seed: draws the split.

    Raises:
        InputError: if a split or digit does not exist.
    """

    def __init__(
        self,
        split: Literal["train", "test", "all"] = "train",
        digits: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
        seed: int = 0,
    ) -> None:
        with _digits_extra():
            from sklearn.datasets import load_digits
        if split not in ("train", "test", "all"):
            raise InputError(f"Digits has no split {split!r}; it is train, test or all")
        if not digits or not set(digits) <= set(range(10)) or len(set(digits)) < len(digits):
            raise InputError(f"Digits: digits {list(digits)} must be different numbers from 0 to 9")
        data = load_digits()
        chosen = [_split(np.flatnonzero(data.target == digit), split, seed) for digit in digits]
        targets = [label for label, rows in enumerate(chosen) for _ in rows]
        pixels = np.stack([_upsample(data.images[row]) for rows in chosen for row in rows])
        super().__init__(pixels, targets, [str(digit) for digit in digits])


class Patches(Embedded):
    """Patches of 32x32 pixels cut from real photographs or textures, each first reduced three times.

    Photographs: china and flower of scikit-learn, five of scikit-image. Textures: brick, grass, gravel and stained
    tissue (ihc) of scikit-image. Every image gives the same number of patches (up to one), at different positions of a
    grid drawn by a fixed seed. Labels are the number of the image.

    Args:
        source: photographs or textures.
        count: how many patches.
        seed: draws the positions.

    Raises:
        InputError: if the source does not exist, or its images have not so many patches.
    """

    def __init__(
        self, source: Literal["photographs", "textures"] = "photographs", count: int = 400, seed: int = 0
    ) -> None:
        if source not in SOURCES:
            raise InputError(f"Patches has no source {source!r}; it is {' or '.join(SOURCES)}")
        names = SOURCES[source]
        if count < 1:
            raise InputError(f"Patches: count is {count}; it must be at least 1")
        pixels: list[np.ndarray] = []
        targets: list[int] = []
        for number, name in enumerate(names):
            share = count // len(names) + (number < count % len(names))
            pixels += _cut(np.asarray(load_image(_find(name)).reduce(REDUCE)), share, seed, number, name)
            targets += [number] * share
        super().__init__(np.stack(pixels), targets, list(names))


def _split(rows: np.ndarray, split: str, seed: int) -> np.ndarray:
    """Returns a share of one digit's rows, in order, chosen by hash: the same split in every library version."""
    keys = hash_index(torch.from_numpy(rows), seed).numpy()
    test = np.zeros(len(rows), dtype=bool)
    test[keys.argsort()[: round(TEST_SHARE * len(rows))]] = True
    return rows if split == "all" else rows[test if split == "test" else ~test]


def _upsample(digit: np.ndarray) -> np.ndarray:
    """``[8, 8]`` with values 0 to 16 -> ``[32, 32, 3]`` uint8."""
    image = Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("RGB"))


def _cut(image: np.ndarray, count: int, seed: int, stream: int, name: str) -> Sequence[np.ndarray]:
    """``count`` patches of ``[H, W, 3]`` at different positions of the grid."""
    down, across = ((side - SIZE) // STRIDE + 1 for side in image.shape[:2])
    if count > down * across:
        raise InputError(f"Patches: {name} has {down * across} patches, not {count}; ask for a smaller count")
    cells = hash_index(torch.arange(down * across), seed, stream).argsort()[:count].tolist()
    corners = [(STRIDE * (cell // across), STRIDE * (cell % across)) for cell in cells]
    return [image[top : top + SIZE, left : left + SIZE] for top, left in corners]


def _find(name: str) -> Path:
    """Returns the path of an image inside a wheel; the libraries' own loaders may download it instead."""
    with _digits_extra():
        import skimage
        import sklearn.datasets

    folders = (Path(sklearn.datasets.__file__).parent / "images", Path(skimage.__file__).parent / "data")
    for folder in folders:
        for ending in (".png", ".jpg"):
            if (folder / (name + ending)).is_file():
                return folder / (name + ending)
    raise InputError(f"the image {name} is in neither {folders[0]} nor {folders[1]}: reinstall scikit-image")


@contextmanager
def _digits_extra() -> Iterator[None]:
    """Says what to install if scikit-learn or scikit-image is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("sklearn", "skimage"):
            raise
        raise InputError(
            "these images come inside scikit-learn and scikit-image: pip install 'lightning-ood[digits]'"
        ) from None
