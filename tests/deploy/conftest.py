"""An exported folder and the detector in it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_ood import load_detector
from lightning_ood.deploy.detector import ExportedDetector
from tests.helpers.exported import write


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder; not to be changed."""
    return write(tmp_path_factory.mktemp("exported") / "detector")


@pytest.fixture(scope="session")
def detector(exported: Path) -> ExportedDetector:
    """What the folder holds."""
    return load_detector(exported, trust_code=True)
