"""The held-out ID images that a threshold is calibrated on: which they are, and that nothing was fitted on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.sets import FileSet, ImageSet
from lightning_ood.data.specs import Spec
from lightning_ood.errors import InputError
from lightning_ood.ops.checksums import file_hash
from lightning_ood.ops.hashing import hash_index

COMPARED = 100_000  # training images without files that are compared one by one; decoding more takes too long


class Chosen(NamedTuple):
    """Calibration images.

    Attributes:
        images: the set that they are in.
        index: their positions in it.
        origin: which they are, in words.
    """

    images: ImageSet
    index: list[int]  # type: ignore[assignment]
    origin: str


def calibration_images(
    data: OODDataModule, given: Spec | None = None, share: float | None = None, seed: int = 0
) -> Chosen:
    """Chooses the calibration images, and compares them with the training images.

    Args:
        data: the data; its ``id.calibration`` is taken where nothing else is given.
        given: a set to calibrate on.
        share: share of the ID test images to calibrate on, drawn at random.
        seed: of the draw.

    Raises:
        InputError: if none or two of them are given, or an image is one of the training images.
    """
    if given is not None and share is not None:
        raise InputError("--calibration and --calibration_share both name calibration images: give one of them")
    if share is not None:
        chosen = _share(data, share, seed)
    elif (spec := given if given is not None else data.id.calibration) is not None:
        key = "--calibration" if given is not None else "data.id.calibration"
        images = data._open(spec, key)
        chosen = Chosen(images, list(range(len(images))), f"all {len(images)} images of {images.name}")
    else:
        raise InputError(
            "no calibration images: give ID images that nothing is fitted on as data.id.calibration or --calibration "
            "FOLDER, or a share of the ID test images as --calibration_share 0.5"
        )
    _check_new(data, chosen)
    return chosen


def calibration_batches(data: OODDataModule, chosen: Chosen) -> DataLoader:
    """Returns the loader of the calibration images, in order."""
    return data._loader(chosen.images, SubsetInOrder(chosen.index))


class SubsetInOrder(Sampler[int]):
    """Yields given positions in order."""

    def __init__(self, index: list[int]) -> None:
        self.index = index

    def __iter__(self) -> Iterator[int]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)


def _share(data: OODDataModule, share: float, seed: int) -> Chosen:
    if not 0 < share <= 1:
        raise InputError(f"--calibration_share {share}: write a share of the ID test images above 0, at most 1")
    images = data._open(data.id.test, "data.id.test")
    count = round(share * len(images))
    index = hash_index(torch.arange(len(images)), seed, stream=17).argsort()[:count].sort().values.tolist()
    return Chosen(images, index, f"{count} of the {len(images)} ID test images ({images.name}), drawn by seed {seed}")


def _check_new(data: OODDataModule, chosen: Chosen) -> None:
    """Compares file contents, or pixels where one of the sets has no files."""
    train = data._open(data.id.train, "data.id.train")
    files = isinstance(train, FileSet) and isinstance(chosen.images, FileSet)
    if not files and len(train) > COMPARED:
        return
    same = _same_files(train, chosen) if files else _same_pixels(train, chosen)
    if same:
        first, where = same[0], chosen.images.paths[same[0]]
        raise InputError(
            f"{len(same)} of {len(chosen.index)} calibration images are training images, on which detectors were "
            f"fitted (the first: {where or f'image {first}'}): p-values would be wrong. Take them out of one set"
        )


def _same_files(train: ImageSet, chosen: Chosen) -> list[int]:
    def path(images: ImageSet, i: int) -> Path:
        assert isinstance(images, FileSet)
        return images.root / str(images.paths[i])

    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for i in chosen.index:
        by_size[path(chosen.images, i).stat().st_size].append(i)
    hashes: dict[str, list[int]] = {}
    for i in (i for group in by_size.values() for i in group):
        hashes.setdefault(file_hash(path(chosen.images, i)), []).append(i)
    candidates = (path(train, i) for i in range(len(train)))
    found = {file_hash(file) for file in candidates if file.stat().st_size in by_size}
    return sorted(i for digest, group in hashes.items() if digest in found for i in group)


def _same_pixels(train: ImageSet, chosen: Chosen) -> list[int]:
    def digest(images: ImageSet, i: int) -> str:
        pixels, size = images.pixels(i)
        return hashlib.sha256(repr(size).encode() + pixels).hexdigest()

    fitted = {digest(train, i) for i in range(len(train))}
    return [i for i in chosen.index if digest(chosen.images, i) in fitted]
