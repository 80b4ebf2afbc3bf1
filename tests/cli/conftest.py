from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DETECTORS = ROOT / "configs" / "detectors"
CORE = ("msp", "maxlogit", "energy", "react", "dice", "line", "nap", "nac", "feature_norm")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def images(size: int, **arguments: int) -> dict[str, object]:
    return {"class_path": "tests.tiny.Images", "init_args": {"size": size, **arguments}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A whole run of a second: tiny network, one near and one far set, the core detectors."""
    content = {
        "seed_everything": 0,
        "model": {"network": {"class_path": "tests.tiny.Net"}, "weights": "none"},
        "data": {
            "id": {"name": "tints", "train": images(61), "test": images(23, seed=1)},
            "ood": {"near/pale": images(17, shift=40, seed=2), "far/white": images(2, shift=130, seed=3)},
            "batch_size": 8,
        },
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
        "scoring": {"detectors": {name: str(DETECTORS / f"{name}.yaml") for name in CORE}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def train(tmp_path: Path) -> Run:
    """Calls ``python train.py …`` as a user does, in an empty folder."""

    def call(*arguments: object, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("LIGHTNING_OOD_DATA", "WANDB_API_KEY")}
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *map(str, arguments)],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return call
