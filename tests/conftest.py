import os
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def kit() -> Path:
    """Root of the real CIFAR-10 kit (images and checkpoints)."""
    for candidate in (os.environ.get("LIGHTNING_OOD_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "cifar10" / "test").is_dir():
            return Path(candidate).resolve()
    pytest.skip("the CIFAR-10 kit is not here: set LIGHTNING_OOD_DATA to its folder")
