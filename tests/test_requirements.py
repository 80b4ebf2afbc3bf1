"""What the package imports is declared, and the stolen releases of Lightning are excluded."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.helpers.runs import ROOT
from tools import lock

PACKAGE = ROOT / "lightning_ood"
OPTIONAL = {"onnx", "onnxscript", "onnxruntime", "transformers"}  # requirements/onnx.txt, requirements/hf.txt


def declared() -> dict[str, Requirement]:
    """The package's dependencies and extras but for `onnx`."""
    return {plain(made.name): made for made in lock.declared()}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """The first names of the modules that a file imports at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_what_is_imported_is_declared() -> None:
    names = set().union(*map(imported, PACKAGE.rglob("*.py"))) - set(sys.stdlib_module_names) - {"lightning_ood"}
    owners, known = packages_distributions(), declared()
    undeclared = {
        name for name in names if not {plain(owner) for owner in owners.get(name, [name])} & (set(known) | OPTIONAL)
    }
    assert not undeclared and {"torch", "yaml", "filelock"} <= names


def test_nothing_is_declared_that_nothing_imports() -> None:
    names = set().union(*map(imported, PACKAGE.rglob("*.py")))
    owners = packages_distributions()
    used = {plain(owner) for name in names for owner in owners.get(name, [])}
    assert set(declared()) - {"pyarrow"} <= used, "pandas imports pyarrow for scores.parquet"


def test_the_stolen_releases_are_excluded() -> None:
    allowed = declared()["lightning"].specifier
    assert "2.6.2" not in allowed and "2.6.3" not in allowed and "2.6.1" in allowed and "2.6.4" in allowed


def test_the_lock_holds_a_tested_version_of_every_requirement() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert set(declared()) <= set(locked)
    for name, requirement in declared().items():
        assert locked[name] in requirement.specifier, f"{name}: run `python -m tools.lock`"


def test_libraries_with_undocumented_names_have_an_upper_bound() -> None:
    for name in ("lightning", "jsonargparse", "torchmetrics", "wandb"):
        assert any(bound.operator == "<" for bound in declared()[name].specifier), name
