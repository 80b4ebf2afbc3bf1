"""Checksums of files and of tensors: what is read is what was written."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.errors import InputError

_NAMED = re.compile(r"-([0-9a-f]{8,64})(?:\.[a-z]+)+$")  # torch hub and timm: resnet50-0676ba61.pth
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over the name, type, shape and bytes of every parameter and saved buffer, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor):  # extra state that a module keeps in Python objects is not weights
            digest.update(f"{name} {_shape(value)}\n".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def checksums(content: Any) -> dict[str, str]:
    """Returns the SHA-256 of every tensor and plain value in nested dicts and lists: path -> 64 hex digits."""
    return {name: _checksum(value) for name, value in _leaves(content, "")}


def digest(content: Any) -> str:
    """Returns one SHA-256 over all tensors and plain values in nested dicts and lists, names included."""
    return hashlib.sha256(repr(sorted(checksums(content).items())).encode()).hexdigest()


def changed(content: Any, stored: Mapping[str, str]) -> list[str]:
    """Lists the paths of the values that are missing, new, or not those that the checksums were made of."""
    now = checksums(content)
    return sorted(name for name in now.keys() | stored.keys() if now.get(name) != stored.get(name))


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            sha.update(part)
    return sha.hexdigest()


def check_hash(path: Path, expected: str | None = None) -> str:
    """Compares a file with ``expected`` and with the hash in its name, as torch hub and timm write it.

    Args:
        path: of the file, such as ``resnet50-0676ba61.pth``; a name without a hash is not compared.
        expected: SHA-256 of the file, or at least its first 8 hex digits.

    Returns:
        the SHA-256 of the file.

    Raises:
        InputError: if one of the two is another hash than the file's.
    """
    found = file_hash(path)
    if expected is not None and not re.fullmatch("[0-9a-f]{8,64}", expected.lower()):
        raise InputError(f"sha256: {expected!r} is no hash; give 8 to 64 hex digits, such as {found}")
    if expected is not None and not found.startswith(expected.lower()):
        raise InputError(f"{path} has the SHA-256 {found}, not {expected}: fetch the file again, or correct the hash")
    named = _NAMED.search(path.name)
    if named and not _DATE.fullmatch(named[1]) and not found.startswith(named[1]):
        raise InputError(
            f"{path} has the SHA-256 {found[:12]}…, and its name says {named[1]}: the file is damaged or was changed. "
            "Fetch it again, or take the hash out of its name"
        )
    return found


def check_zip(path: Path) -> None:
    """Compares the members of a file that ``torch.save`` wrote with their CRC-32; other formats have none.

    Raises:
        ValueError: if the archive is damaged.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(member.CRC for member in archive.infolist()):
                return  # written without: torch.serialization.set_crc32_options(False)
            damaged = archive.testzip()
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise ValueError(f"the archive is damaged ({str(error) or type(error).__name__})") from error
    if damaged is not None:
        raise ValueError(f"the archive is damaged (wrong CRC-32 of {damaged})")


def _leaves(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    parts = None
    if isinstance(content, Mapping):
        parts = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list | tuple):
        parts = [(str(i), value) for i, value in enumerate(content)]
    if not parts:
        yield path, content
        return
    for name, value in parts:
        yield from _leaves(value, f"{path}/{name}" if path else name)


def _checksum(value: Any) -> str:
    if isinstance(value, Tensor):
        return hashlib.sha256(f"{_shape(value)}\n".encode() + _bytes(value)).hexdigest()
    plain = sorted(map(repr, value)) if isinstance(value, set | frozenset) else value
    kind = "" if isinstance(value, Mapping | list | tuple) else type(value).__name__  # of the empty ones, reading tells
    return hashlib.sha256(f"{kind} {plain!r}".encode()).hexdigest()


def _shape(value: Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)}"


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
