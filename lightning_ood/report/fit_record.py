"""What a fit leaves in the run's folder for the loggers of a test: its cost, and the W&B run of its checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning_ood.errors import InputError
from lightning_ood.ops.files import read_json, write_text

FILE = "tracking.json"


@dataclass(frozen=True)
class FitRecord:
    """What the logger of a test knows of the fit.

    Attributes:
        usage: measured cost of the fit pass, ``cost/fit_seconds`` and the like -> value.
        run_id: id of the W&B run of the fit; empty without one.
        artifact: name of the checkpoint's artifact in W&B; empty where it was not logged.
    """

    usage: Mapping[str, float] = field(default_factory=dict)
    run_id: str = ""
    artifact: str = ""


def write_record(run_dir: Path, record: FitRecord) -> Path:
    """Writes ``tracking.json``."""
    return write_text(run_dir / FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_record(run_dir: Path) -> FitRecord:
    """Reads ``tracking.json``; an empty record where there is none, and a warning where it is damaged.

    It holds nothing that a score depends on, so it ends no run.
    """
    try:
        found = read_json(run_dir / FILE)
    except InputError:
        found = {"usage": None}
    usage, names = found.get("usage", {}), [found.get(key, "") for key in ("run_id", "artifact")]
    whole = isinstance(usage, dict) and all(isinstance(value, (int, float)) for value in usage.values())
    if not whole or not all(isinstance(name, str) for name in names):
        warnings.warn(
            f"{run_dir / FILE} is damaged: the run goes on without the cost and the W&B run of the fit", stacklevel=2
        )
        return FitRecord()
    return FitRecord(usage, *names)
