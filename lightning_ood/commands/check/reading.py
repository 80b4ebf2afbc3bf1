"""Reads the images of a set: size, mode and pixel hash, or the reason why one cannot be read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader

from lightning_ood.data.images import ImageError
from lightning_ood.data.sets import FileSet, ImageSet


class Read(NamedTuple):
    """One image: its position, and a hash of its pixels, its size and mode; or why it cannot be read."""

    position: int
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    error: str = ""


@dataclass
class Contents:
    """Sizes, modes and pixel hashes of the images of a set.

    Attributes:
        images: the set.
        digests: position -> hash of the decoded pixels.
        sizes: ``(width, height)`` -> number of images.
        modes: PIL's mode of the file before conversion to RGB -> number of images; empty where images are not files.
        unreadable: position -> reason.
    """

    images: ImageSet
    digests: dict[int, bytes] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[int, str] = field(default_factory=dict)

    def add(self, batch: Iterable[Read]) -> None:
        """Adds images that were read."""
        for read in batch:
            if read.error:
                self.unreadable[read.position] = read.error
                continue
            self.digests[read.position] = read.digest
            self.sizes[read.size] += 1
            if read.mode:
                self.modes[read.mode] += 1

    def name(self, position: int) -> str:
        """Returns the path of an image, or ``<set>[<position>]`` where images are not files."""
        return self.images.paths[position] or f"{self.images.name}[{position}]"

    def plain(self) -> dict[str, Any]:
        """Returns the facts about the set as plain values for JSON."""
        return {
            "name": self.images.name,
            "images": len(self.images),
            "read": len(self.digests) + len(self.unreadable),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
            "modes": dict(self.modes),
            "classes": len(self.images.classes) if self.images.classes else None,
            "unreadable": {self.name(position): reason for position, reason in self.unreadable.items()},
        }


def read_all(images: ImageSet, limit: int | None = None, workers: int = 0) -> Iterable[list[Read]]:
    """Decodes the images of a set in batches, in ``workers`` processes (0: in this one).

    Two images are equal if their pixels are after decoding to 8-bit RGB. ``limit`` images are read, evenly spaced;
    None reads all.

    Raises:
        InputError: if the data set returns something that is no image or no label.
    """
    positions: Any = evenly_spaced(len(images), limit)
    return DataLoader(positions, batch_size=64, num_workers=workers, collate_fn=partial(_read, images))


def _read(images: ImageSet, positions: Sequence[int]) -> list[Read]:
    batch = []
    for position in positions:
        try:
            image, _ = images.read(position)
        except ImageError as error:
            batch.append(Read(position, error=str(error).partition("; repair it")[0]))
            continue
        digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
        mode = ""
        if isinstance(images, FileSet):
            with Image.open(images.root / str(images.paths[position])) as file:
                mode = file.mode
        batch.append(Read(position, digest, image.size, mode))
    return batch


def evenly_spaced(size: int, count: int | None) -> Sequence[int]:
    """Returns at most ``count`` positions in a set, evenly spaced, so that a sorted set's classes are all sampled."""
    if count is None or count >= size:
        return range(size)
    return [i * size // count for i in range(count)]
