"""What tests that call the command line share: where the repository is, and a run of a second."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DETECTORS = ROOT / "configs" / "detectors"
CORE = ("msp", "maxlogit", "energy", "react", "dice", "line", "nap", "nac", "feature_norm")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def images(size: int, **arguments: int) -> dict[str, object]:
    """A data set of tinted images, as a config names it."""
    return {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": size, **arguments}}
