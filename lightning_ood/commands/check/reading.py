"""Reads the images of a set: size, mode, pixel hash, or the reason why one cannot be read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lightning_ood.data.images import ImageError, darkness
from lightning_ood.data.sets import FileSet, ImageSet


class Read(NamedTuple):
    """One image: its position, and a hash of its pixels, its size and mode; or why it cannot be read."""

    position: int
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    error: str = ""
    dark: str = ""


@dataclass
class Contents:
    """Sizes, modes and pixel hashes of the images of a set.

    Attributes:
        digests: position -> hash of the decoded pixels.
        sizes: ``(width, height)`` -> number of images.
        modes: PIL's mode of the files -> number of images; empty where images are no files.
        unreadable: position -> reason.
        dark: position -> why an image may be read darker than it is.
    """

    digests: dict[int, bytes] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[int, str] = field(default_factory=dict)
    dark: dict[int, str] = field(default_factory=dict)


class _Images(Dataset[Read]):
    def __init__(self, images: ImageSet, positions: Sequence[int]) -> None:
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Read:
        position = self.positions[index]
        try:
            image, _ = self.images.read(position)
        except ImageError as error:
            return Read(position, error=str(error).partition("; repair it")[0])
        digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
        mode, dark = self._mode(position)
        return Read(position, digest, image.size, mode, dark=dark)

    def _mode(self, position: int) -> tuple[str, str]:
        """Returns the file's mode before conversion to RGB, and why the image may be read too dark."""
        if not isinstance(self.images, FileSet):
            return "", ""
        with Image.open(self.images.root / str(self.images.paths[position])) as file:
            return file.mode, darkness(file)


def read_all(
    images: ImageSet, limit: int | None = None, workers: int = 0, tick: Callable[[int], Any] = lambda count: None
) -> Contents:
    """Decodes the images of a set.

    Two images are the same where their pixels are after decoding to 8-bit RGB, whatever file holds them.

    Args:
        images: the set.
        limit: number of images to read, evenly spaced; None reads all.
        workers: processes that read; 0 reads in this one.
        tick: called with the number of images in each batch read.

    Raises:
        InputError: if the data set gives something that is no image or no label.
    """
    found = Contents()
    loader = DataLoader(
        _Images(images, evenly_spaced(len(images), limit)), batch_size=64, num_workers=workers, collate_fn=list
    )
    for batch in loader:
        for read in batch:
            if read.error:
                found.unreadable[read.position] = read.error
                continue
            found.digests[read.position] = read.digest
            found.sizes[read.size] += 1
            if read.dark:
                found.dark[read.position] = read.dark
            if read.mode:
                found.modes[read.mode] += 1
        tick(len(batch))
    return found


def evenly_spaced(size: int, count: int | None) -> Sequence[int]:
    """At most ``count`` positions in a set, evenly spaced, so that a sorted set's classes are all sampled."""
    if count is None or count >= size:
        return range(size)
    return [i * size // count for i in range(count)]
