"""Reads TensorBoard's event files: TFRecord's frames (length, checksum, event, checksum) around its own messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def values(folder: Path) -> dict[str, Any]:
    """Tag -> the last value of each summary in the files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    events = (Event.FromString(part) for path in sorted(folder.rglob("events.out.*")) for part in _frames(path))
    return {value.tag: value for event in events for value in event.summary.value}


def _frames(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += 12 + length + 4
