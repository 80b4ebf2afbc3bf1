from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

DETECTORS = ROOT / "configs" / "detectors"
CORE = ("msp", "maxlogit", "energy", "react", "dice", "line", "nap", "nac", "feature_norm")


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
