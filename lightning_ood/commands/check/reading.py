"""Reads the images of a set: size, mode and pixel hash, or the reason why one cannot be read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader

from lightning_ood.data.images import ImageError, darkness
from lightning_ood.data.sets import FileSet, ImageSet
from lightning_ood.data.workers import start_worker


@dataclass
class Contents:
    """Sizes, modes and pixel hashes of images of a set.

    Attributes:
        digests: position -> hash of the decoded pixels.
        sizes: ``(width, height)`` -> number of images.
        modes: PIL's mode of the file before conversion to RGB -> number of images; empty where images are not files.
        unreadable: position -> reason.
        dark: position -> why an image may be read darker than it is.
    """

    digests: dict[int, bytes] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[int, str] = field(default_factory=dict)
    dark: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.digests) + len(self.unreadable)

    def update(self, other: Contents) -> None:
        """Adds other images of the set."""
        self.digests |= other.digests
        self.sizes += other.sizes
        self.modes += other.modes
        self.unreadable |= other.unreadable
        self.dark |= other.dark

    def plain(self, images: ImageSet) -> dict[str, Any]:
        """Returns the facts about the set as plain values for JSON."""
        return {
            "name": images.name,
            "images": len(images),
            "read": len(self),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
            "modes": dict(self.modes),
            "classes": len(images.classes) if images.classes else None,
            "unreadable": {image_name(images, position): reason for position, reason in self.unreadable.items()},
        }


def image_name(images: ImageSet, position: int) -> str:
    """Returns the path of an image, or ``<set>[<position>]`` where images are not files."""
    return images.paths[position] or f"{images.name}[{images.position(position)}]"


def read_all(images: ImageSet, limit: int | None = None, workers: int = 0) -> Iterable[Contents]:
    """Decodes the images of a set in batches, in ``workers`` processes (0: in this one).

    Two images are equal if their pixels are after decoding to 8-bit RGB. ``limit`` images are read, evenly spaced;
    None reads all.

    Raises:
        InputError: if the data set returns something that is no image or no label.
    """
    positions: Any = evenly_spaced(len(images), limit)
    return DataLoader(
        positions, batch_size=64, num_workers=workers, collate_fn=partial(_read, images), worker_init_fn=start_worker
    )


def _read(images: ImageSet, positions: Sequence[int]) -> Contents:
    contents = Contents()
    for position in positions:
        try:
            pixels, size = images.pixels(position)
        except ImageError as error:
            contents.unreadable[position] = str(error).partition("; repair it")[0]
            continue
        contents.digests[position] = hashlib.blake2b(repr(size).encode() + pixels, digest_size=16).digest()
        if size is not None:
            contents.sizes[size] += 1
        if isinstance(images, FileSet):
            with Image.open(images.root / str(images.paths[position])) as file:
                contents.modes[file.mode] += 1
                if dark := darkness(file):
                    contents.dark[position] = dark
    return contents


def evenly_spaced(size: int, count: int | None) -> Sequence[int]:
    """Returns at most ``count`` positions in a set, evenly spaced, so that a sorted set's classes are all sampled."""
    if count is None or count >= size:
        return range(size)
    return [i * size // count for i in range(count)]
