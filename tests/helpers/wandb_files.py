"""Reads the file of an offline W&B run: LevelDB's log format around W&B's own records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # bytes; the file's own header has seven, too
WHOLE, LAST = 1, 4  # kinds of fragments that end a record


def records(path: Path) -> Iterator[Any]:
    """Every record, in order."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@dataclass
class Offline:
    """What `wandb sync` would find in a run's folder.

    Attributes:
        folder: of the run, ``offline-run-…``.
        run: its record of names, group, job type, tags.
        config: every parameter.
        steps: key -> value of each step of the history.
        summary: as W&B's table of runs shows it; parts of media joined with a slash.
        artifacts: name -> record.
        files: what is uploaded from ``files``.
        alerts: records of alerts.
        exit_code: None where the run did not end.
    """

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    alerts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def read(folder: Path, within: float = 20.0) -> Offline:
    """The run in a folder ``offline-run-…``, when W&B's service has written its end (``within`` seconds)."""
    until = time.time() + within
    while (found := _read(folder)).exit_code is None and time.time() < until:
        time.sleep(0.2)
    return found


def _read(folder: Path) -> Offline:
    (path,) = folder.glob("*.wandb")
    found = Offline(folder)
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
        elif kind == "config":
            found.config |= {_key(item): json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            found.steps.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact":
            found.artifacts[record.artifact.name] = record.artifact
        elif kind == "files":
            found.files += [folder / "files" / item.path for item in record.files.files]
        elif kind == "alert":
            found.alerts.append(record.alert)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
