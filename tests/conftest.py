from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def kit() -> Path:
    """Root of the real CIFAR-10 kit (images and checkpoints)."""
    for candidate in (os.environ.get("LIGHTNING_OOD_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "cifar10" / "test").is_dir():
            return Path(candidate).resolve()
    pytest.skip("the CIFAR-10 kit is not here: set LIGHTNING_OOD_DATA to its folder")


@pytest.fixture
def wandb_anew() -> Iterator[None]:
    """W&B reads the environment once in a process: what another test has set is forgotten, before and after."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


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
