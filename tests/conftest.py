"""Fixtures of all tests; what they share besides is in ``tests.helpers``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lightning  # noqa: F401  # first: its log goes to the stream of the test that imports it, which is then closed
import pandas as pd
import pytest
import yaml

from lightning_ood.ops.memory import keep_freed_memory
from tests.helpers.commands import Commands
from tests.helpers.runs import CORE, DETECTORS, ROOT, Run, images
from tests.helpers.scores import make_scores

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
keep_freed_memory()  # half of the time of networks at 224 px


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest file first: two processes share the files in this order, and neither shall wait for it alone."""
    items.sort(key=lambda item: item.path.name != "test_kit.py")


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


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture
def train(commands: Commands, tmp_path: Path) -> Run:
    """Calls ``python train.py …`` as a user does, in an empty folder."""

    def call(*arguments: object, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("LIGHTNING_OOD_DATA", "WANDB_API_KEY")}
        environment = {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        return commands.run(list(map(str, arguments)), tmp_path, environment, timeout)

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A whole run of a second: tiny network, one near and one far set, the core detectors."""
    content = {
        "seed_everything": 0,
        "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
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
def scores() -> pd.DataFrame:
    return make_scores(["msp", "energy", "nap"], [("eights", "near"), ("photos", "far"), ("textures", "far")])


@pytest.fixture
def wide() -> pd.DataFrame:
    """30 detectors and 8 sets, with long names."""
    detectors = [f"detector_{k}" for k in range(29)] + ["feature_norm_of_every_block_lent_to_energy"]
    sets = [(f"set_{s}", "near" if s < 3 else "far") for s in range(7)]
    return make_scores(detectors, [*sets, ("places365_validation_subset", "far")])
