"""Files that appear under their name when they are whole, never before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTIAL = "*.partial"  # what a job that died may leave behind


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Calls ``write`` with another name in the same folder, which is made, and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several processes may write the same file
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """The same for text."""
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
