"""A cache of features on disk, so that the same images and weights need no second forward pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_ood.features import Features, Head
from lightning_ood.ops.checksums import digest
from lightning_ood.ops.console import rank_zero_warn
from lightning_ood.ops.files import PARTIAL, write_whole

Shape = tuple[int | None, ...]  # None: of any length


def to_parts(features: Features) -> dict[str, Tensor]:
    """Converts features to a dict of named tensors, without labels and indices."""
    parts = {"logits": features.logits, "pooled": features.pooled}
    parts |= {f"map:{tap}": value for tap, value in features.maps.items()}
    parts |= {f"gradient:{tap}": value for tap, value in features.gradients.items()}
    return parts if features.attention is None else {**parts, "attention": features.attention}


def from_parts(parts: Mapping[str, Tensor], head: Head | None, labels: Tensor | None, index: Tensor) -> Features:
    """Rebuilds features from the dict of :func:`to_parts`."""
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


LOOKS = 64  # number of times that a process lists the folder while it fills the cache


class FeatureCache:
    """Stores the results of forward passes under a hash of everything that they depend on.

    The key of a batch is the SHA-256 of the network's weights, its precision and the preprocessed pixels of the batch.
    Any other weight, image, preprocessing or batch is therefore a miss, and no entry becomes stale. A file has the
    tensors that were read so far (logits, pooled, maps, gradients, attention) and a checksum of them. A request for
    another one is a miss, after which the file has it too. The least recently used files are deleted to make room.

    The cache never ends a run. A file that is damaged, or holds tensors of another shape, is a miss and is replaced.
    After a write that fails (disk full, no permission, a file in place of the folder) nothing more is written. Either
    is told once.

    Args:
        folder: folder of the files; runs and processes may share it.
        size: limit of the total file size in bytes; each further process may exceed it by ``size / LOOKS``.
    """

    def __init__(self, folder: Path | str, size: int) -> None:
        self.folder = Path(folder)
        self.size = size
        self.hits = self.misses = 0
        self._stored: int | None = None  # bytes in the folder, as far as this process knows
        self._unlisted = 0  # bytes that this process has written since it listed the folder
        self._writes = True  # until a write fails
        self._told = False  # that a file cannot be used

    def key(self, images: Tensor, weights: str) -> str:
        """Computes the key of a batch ``images`` ``[B, 3, H, W]`` and a network with the hash ``weights``."""
        digest = hashlib.sha256(weights.encode())
        kind = images.device.type
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        digest.update(repr((tuple(images.shape), images.dtype, autocast)).encode())
        digest.update(images.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def read(self, key: str, shapes: Mapping[str, Shape], device: torch.device) -> dict[str, Tensor] | None:
        """Loads tensors of a batch to ``device``; None if one of them is missing.

        Args:
            key: result of :meth:`key`.
            shapes: name -> shape of each tensor; None for a side of any length.
            device: of the result.
        """
        path = self._path(key)
        stored = self._load(path)
        if not set(shapes) <= set(stored):
            self.misses += 1
            return None
        wrong = [name for name, shape in shapes.items() if not _has(stored[name], shape)]
        if wrong:
            self.misses += 1
            shape = list(stored[wrong[0]].shape)
            self._tell_of(path, f"{wrong[0]} has the shape {shape} there, and {list(shapes[wrong[0]])} here")
            return None
        self.hits += 1
        with suppress(OSError):  # another process has deleted it meanwhile, or the folder is read-only
            os.utime(path)
        return {name: stored[name].to(device) for name in shapes}

    def write(self, key: str, parts: dict[str, Tensor]) -> None:
        """Adds tensors of a batch to its file, unless an earlier write failed."""
        if not self._writes:
            return
        copies = {
            name: part.detach().cpu().contiguous().clone() for name, part in parts.items()
        }  # two may share memory
        try:
            with suppress(FileNotFoundError):  # another process has deleted it meanwhile
                self._write(key, copies)
        except (OSError, SafetensorError) as error:  # the latter wraps what the system says
            self._writes = False
            rank_zero_warn(
                f"the feature cache {self.folder} takes no more features ({_reason(error)}): the run goes on without "
                "it, with the same numbers"
            )

    def _write(self, key: str, copies: dict[str, Tensor]) -> None:
        path = self._path(key)
        content = {**self._load(path), **copies}
        if self._make_room(sum(part.nbytes for part in content.values())):
            write_whole(path, partial(save_file, content, metadata={"sha256": digest({"key": key, **content})}))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _load(self, path: Path) -> dict[str, Tensor]:
        """Loads the tensors of a file; none if it is missing, or not what was written under its key."""
        if not path.is_file():  # a pipe would wait for a writer
            return {}
        try:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                checksum = (file.metadata() or {}).get("sha256")
            if checksum == digest({"key": path.stem, **stored}):
                return stored
            reason = "its checksum is another"
        except FileNotFoundError:  # another process has deleted it meanwhile
            return {}
        except Exception as error:  # the reader raises whatever the bytes lead it to
            reason = _reason(error)
        self._tell_of(path, reason)
        return {}

    def _tell_of(self, path: Path, reason: str) -> None:
        if not self._told:
            self._told = True
            rank_zero_warn(
                f"the feature cache {self.folder} holds a file that cannot be used, {path.name} ({reason}): the "
                "network computes its features anew, and those of other such files"
            )

    def _make_room(self, wanted: int) -> bool:
        """Deletes the least recently used files until ``wanted`` more bytes fit; returns whether they do."""
        self._unlisted += wanted
        if self._stored is None or self._stored + wanted > self.size or self._unlisted > self.size // LOOKS:
            self._stored, self._unlisted = self._trim(self.size - wanted), wanted
        self._stored += wanted
        return self._stored <= self.size

    def _trim(self, size: int) -> int:
        """Deletes the least recently used files of all processes beyond ``size`` bytes; returns the remaining bytes."""
        files = []
        for path in (*self.folder.glob("*/*.safetensors"), *self.folder.glob(f"*/{PARTIAL}")):
            with suppress(FileNotFoundError):  # another process has deleted it meanwhile
                if S_ISREG((stat := path.stat()).st_mode):
                    files.append((stat, path))
        stored = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda entry: entry[0].st_mtime):
            if stored <= size:
                break
            path.unlink(missing_ok=True)
            stored -= stat.st_size
        return stored


def _has(value: Tensor, shape: Shape) -> bool:
    """Returns whether a tensor holds floats and has a shape."""
    sides = zip(value.shape, shape, strict=False)
    return value.is_floating_point() and value.ndim == len(shape) and all(b in (None, a) for a, b in sides)


def _reason(error: Exception) -> str:
    """Returns what the system says about a write that failed."""
    return (isinstance(error, OSError) and error.strerror) or (str(error).splitlines() or [type(error).__name__])[0]
