"""Tells whether images are the ones that a fit or a training has read, at the price of a look at every file's date."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_ood.data.sets import Batch, ImageSet
from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.transfer import beside

SAMPLED = 64  # images whose pixels are hashed in any case
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a pixel -> type of its bits
_AT_ONCE = 16  # images hashed at a time, to bound the memory

Fingerprint = dict[str, dict[str, str]]  # set -> "set", "files" and "content"


def fingerprint(images: ImageSet, root: Path) -> dict[str, str]:
    """Describes a set without reading all of its images.

    Args:
        images: the set.
        root: of the data.

    Returns:
        ``set``: SHA-256 over the resolved root, the paths, labels, class names in order, and preprocessed pixels of 64
        images; ``files``: SHA-256 over size, times and inode of every file, empty if the images are no files;
        ``content``: empty, a place for :func:`content_of`.
    """
    labels = [] if images.labels is None else images.labels.tolist()
    sha = hashlib.sha256(repr((str(root.resolve()), images.classes, images.bad_images, images.upright)).encode())
    sha.update(repr((len(images), list(images.paths), labels)).encode())
    for index in range(0, len(images), max(1, len(images) // SAMPLED)):
        item = images[index]
        sha.update(b"" if item.image is None else item.image.contiguous().numpy().tobytes())
    return {"set": sha.hexdigest(), "files": _files(images, root), "content": ""}


def same_images(stored: object, now: Fingerprint, content: Callable[[str], str]) -> bool:
    """Returns True if sets are the ones whose fingerprint is ``stored``.

    Args:
        stored: an earlier fingerprint of the sets.
        now: their fingerprint now.
        content: computes the content of a set; called only where a file's size or date has changed, or where there are
            no files. The content of sets that the earlier pass did not read is not compared.
    """
    if not isinstance(stored, Mapping) or stored.keys() != now.keys():
        return False
    if any(stored[name]["set"] != now[name]["set"] for name in now):
        return False
    untold = [name for name in now if not now[name]["files"] or stored[name]["files"] != now[name]["files"]]
    return all(stored[name]["content"] in ("", content(name)) for name in untold)


def content_of(batches: Iterable[Batch]) -> str:
    """Returns the content of a set, from all of its batches."""
    return content_text(sum((pixel_sum(batch) for batch in batches), torch.zeros((), dtype=torch.int64)))


def content_text(total: Tensor) -> str:
    """Returns the sum of all batches' :func:`pixel_sum`, ``[]``, as 16 hex digits."""
    return f"{int(total) % 2**64:016x}"


def pixel_sum(batch: Batch) -> Tensor:
    """Sums a hash of each image, its label and its position; ``[]`` int64, on the device of the images, without a wait.

    Every bit of every pixel counts. The sum modulo 2**64 does not depend on the order or on the number of processes.
    """
    total = torch.zeros((), dtype=torch.int64, device=batch.image.device)
    if not len(batch.index):
        return total
    index, label = beside(batch.index, batch.image), beside(batch.label, batch.image)
    place = hash_index(index, 0, 1) + hash_index(label, 0, 2)  # [B]
    bits = batch.image.detach().contiguous().flatten(1)
    bits = bits.view(_INTEGER[bits.element_size()])  # [B, 3 H W]
    factors = _factors(bits.shape[1], str(bits.device))
    for part, where in zip(bits.split(_AT_ONCE), place.split(_AT_ONCE), strict=True):
        total += hash_index((part * factors).sum(1) + where, 0, 3).sum()
    return total


@lru_cache(maxsize=2)
def _factors(count: int, device: str) -> Tensor:
    """Odd pseudo-random factors ``[count]`` int64."""
    return hash_index(torch.arange(count, device=device), 0) * 2 + 1


def _files(images: ImageSet, root: Path) -> str:
    if any(path is None for path in images.files):
        return ""
    sha = hashlib.sha256()
    for path in images.files:
        try:
            stat = (root / str(path)).stat()
        except OSError as error:  # reading the images reports it
            sha.update(str(error).encode())
        else:
            sha.update(repr((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)).encode())
    return sha.hexdigest()
