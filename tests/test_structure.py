"""The order of the wings: a file imports from its own wing and from those above it, and knows few libraries."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_ood"

# From the ground up; each wing imports from itself and from those before it.
WINGS = (
    *("errors", "ops", "views", "features", "statistics", "networks", "metrics", "detectors", "backbone", "data"),
    *("report", "suite", "evaluation", "deploy", "engine", "testing", "commands", "__init__", "__main__"),
)
# Libraries that only these wings may import.
ONLY = {
    "lightning": {"data", "engine", "commands"},
    "wandb": {"report", "engine", "commands"},
    "matplotlib": {"report", "commands"},
    "timm": {"networks", "backbone"},
    "jsonargparse": {"commands"},
    "optuna": {"commands"},
}
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Modules that a file imports at any depth; what serves types alone does not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "lightning_ood":
            found |= {f"lightning_ood.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_wing_has_its_place() -> None:
    assert {Path(name).parts[0].removesuffix(".py") for name in FILES} <= set(WINGS)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    wing = Path(name).parts[0].removesuffix(".py")
    used = {tuple(module.split(".")) for module in imports(FILES[name])}
    below = set(WINGS[: WINGS.index(wing) + 1])
    upward = {".".join(parts) for parts in used if parts[0] == "lightning_ood" and not below & set(parts[1:2])}
    assert not upward, f"{wing} stands below what it imports"
    for library, wings in ONLY.items():
        assert wing in wings or library not in {parts[0] for parts in used}, f"{wing} does not know {library}"
