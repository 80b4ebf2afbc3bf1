"""Atomic file writes: a file gets its name only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_ood.errors import InputError

PARTIAL = ".*.*.partial"  # pattern of the temporary files that a crash may leave behind; no name that a user gives
_NOT_IN_FILES = re.compile(r"[^-.=+_a-z0-9]")


def file_name(name: str) -> str:
    """Returns a name for the file of something: two names never share one, on any file system.

    A name of lower-case letters, digits and ``-.=+_`` is its own; another is changed to one, and ends in its hash.
    """
    plain = _NOT_IN_FILES.sub("_", name.lower())[:80]
    return name if plain == name else f"{plain}-{name_hash(name)}"


def name_hash(name: str) -> str:
    """Returns eight hexadecimal digits that tell names apart, whatever letters they have."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Writes ``path`` atomically: calls ``write`` with a temporary path in the same folder, then renames the file.

    Folders that do not exist are created. Returns ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id is part of the name, since several processes may write the same file.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a dead process with this id, or somebody's link
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8 text to ``path`` atomically; bytes of file names that are no UTF-8 are escaped."""
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_text(path: Path, advice: str = "save it in UTF-8") -> str:
    """Reads UTF-8 text.

    Raises:
        InputError: if it is none; ends in ``advice``.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 ({error.reason}): {advice}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file of the program that holds a JSON mapping; empty where the file does not exist.

    Raises:
        InputError: if the file is damaged; it can be deleted.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it; the command goes on without it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (it holds no mapping): delete it; the command goes on without it")
    return content
