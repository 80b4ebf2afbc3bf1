"""Features on disk, so that a second look at the same images with the same weights needs no network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_ood.features import Features, Head
from lightning_ood.ops.files import PARTIAL, write_whole


def part_names(taps: Iterable[str], gradients: Iterable[str], attention: bool) -> list[str]:
    """Names of what a plan reads."""
    named = ["logits", "pooled", *(f"map:{tap}" for tap in taps), *(f"gradient:{tap}" for tap in gradients)]
    return [*named, "attention"] if attention else named


def to_parts(features: Features) -> dict[str, Tensor]:
    """What a forward pass gave, by name; labels and indices are not among it."""
    parts = {"logits": features.logits, "pooled": features.pooled}
    parts |= {f"map:{tap}": value for tap, value in features.maps.items()}
    parts |= {f"gradient:{tap}": value for tap, value in features.gradients.items()}
    return parts if features.attention is None else {**parts, "attention": features.attention}


def from_parts(parts: Mapping[str, Tensor], head: Head | None, labels: Tensor | None, index: Tensor) -> Features:
    """The features that :func:`to_parts` took apart."""
    kinds: dict[str, dict[str, Tensor]] = {"map": {}, "gradient": {}}
    for name, value in parts.items():
        kind, _, tap = name.partition(":")
        if tap:
            kinds[kind][tap] = value
    return Features(
        logits=parts["logits"],
        pooled=parts["pooled"],
        head=head,
        maps=kinds["map"],
        gradients=kinds["gradient"],
        attention=parts.get("attention"),
        labels=labels,
        index=index,
    )


LOOKS = 64  # how often a process that fills the cache looks at what others have written


class FeatureCache:
    """What forward passes gave, under the hash of all that it depends on.

    A batch's key is sha256 over the network's weights, its precision and the batch's own pixels as the network reads
    them: another weight, image, preprocessing or batch is a miss, and nothing has to be declared stale. A file holds
    the parts that were read so far (logits, pooled, maps, gradients, attention); asking for one more is a miss that
    adds it. Files used longest ago make room for new ones.

    Args:
        folder: where the files are; it may be shared by runs and by processes.
        size: bytes that the files may take together; each further process may exceed them by a ``LOOKS``-th.
    """

    def __init__(self, folder: Path | str, size: int) -> None:
        self.folder = Path(folder)
        self.size = size
        self.hits = self.misses = 0
        self._held: int | None = None  # bytes in the folder, as far as this process knows
        self._unseen = 0  # bytes that it has written since it looked

    def key(self, images: Tensor, weights: str) -> str:
        """Of a batch ``images`` ``[B, 3, H, W]`` under a network with the hash ``weights``."""
        digest = hashlib.sha256(weights.encode())
        kind = images.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        digest.update(repr((tuple(images.shape), images.dtype, autocast)).encode())
        digest.update(images.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def read(self, key: str, parts: Iterable[str], device: torch.device) -> dict[str, Tensor] | None:
        """The parts of a batch, or None if one of them is missing."""
        path = self._path(key)
        held = _load(path)
        if not held or not set(parts) <= set(held):
            self.misses += 1
            return None
        self.hits += 1
        with suppress(FileNotFoundError):  # another process made room meanwhile
            os.utime(path)
        return {name: held[name].to(device) for name in parts}

    def write(self, key: str, parts: dict[str, Tensor]) -> None:
        """Keeps parts of a batch beside those that are held already."""
        path = self._path(key)
        copies = {
            name: part.detach().cpu().contiguous().clone() for name, part in parts.items()
        }  # two may share memory
        content = {**_load(path), **copies}
        if not self._make_room(sum(part.nbytes for part in content.values())):
            return
        with suppress(FileNotFoundError):  # another process needed the room
            write_whole(path, partial(save_file, content))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _make_room(self, wanted: int) -> bool:
        """Removes the files used longest ago until ``wanted`` more bytes fit; says whether they do."""
        self._unseen += wanted
        if self._held is None or self._held + wanted > self.size or self._unseen > self.size // LOOKS:
            self._held, self._unseen = self._trim(self.size - wanted), wanted
        self._held += wanted
        return self._held <= self.size

    def _trim(self, size: int) -> int:
        """Removes the files used longest ago beyond ``size`` bytes, whoever wrote them; says what is left."""
        files = []
        for path in (*self.folder.glob("*/*.safetensors"), *self.folder.glob(f"*/{PARTIAL}")):
            with suppress(FileNotFoundError):  # another process was quicker
                files.append((path.stat(), path))
        held = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda entry: entry[0].st_mtime):
            if held <= size:
                break
            path.unlink(missing_ok=True)
            held -= stat.st_size
        return held


def _load(path: Path) -> dict[str, Tensor]:
    """What a file holds; nothing if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}
