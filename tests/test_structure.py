"""The direction of imports: what a notebook needs does not drag in what a trainer needs."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_ood"
LIGHTNING = {
    "module",
    "scoring",
    "training",
    "run",
    "outcome",
    "cli",
    "terminal",
    "folder",
    "tracking",
    "selection",
    "data/datamodule",
    "sweep/point",
}
# What a room may import of the others, from the ground up.
FEATURES = {"errors", "hashing", "features", "views", "perturbation", "sketches", "feature_sample"}
COMMANDS = ("check", "compare", "sweep", "report", "testing", "docs", "__init__", "__main__")  # they use everything
FORBIDDEN = {"module", "scoring", "run", "outcome", "cli", "folder", "tracking", "report", "selection"}


def imports(path: Path) -> set[str]:
    """Modules that a file imports at any depth; of this package as ``room`` or ``room/file``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


FILES = sorted(PACKAGE.rglob("*.py"), key=str)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    name = str(path.relative_to(PACKAGE).with_suffix(""))
    room = name.split("/")[0]
    used = imports(path)
    own = {module.split(".")[1] for module in used if module.startswith("lightning_ood.")}
    libraries = {module.split(".")[0] for module in used}
    if name not in LIGHTNING and room != "check":
        assert not libraries & {"lightning", "pytorch_lightning"}, "only the rooms around the trainer know Lightning"
    if room not in ("report", "tracking", "selection"):
        assert "wandb" not in libraries
    if room in ("detectors", *FEATURES):
        assert not own & (FORBIDDEN | {"backbone", "probe", "attention", "data", "networks"}), own
    elif name not in LIGHTNING and room not in COMMANDS:
        assert not own & FORBIDDEN, own
