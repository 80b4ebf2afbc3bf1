"""The folder that relative paths of images and weights start from."""

from __future__ import annotations

import os
from pathlib import Path


def data_root(root: str | Path | None = None) -> Path:
    """Returns ``root``, else the environment variable LIGHTNING_OOD_DATA, else ``data``, as an absolute path."""
    return Path(root or os.environ.get("LIGHTNING_OOD_DATA") or "data").expanduser().absolute()
