"""The documentation site: its index names every page, and pages are adapted to it. ``make docs`` builds it."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

import lightning_ood
from tests.helpers.runs import ROOT

SITE = ROOT / "docs" / "site"


def test_the_index_names_every_page() -> None:
    index = (SITE / "index.md").read_text()
    trees = "\n".join(re.findall(r"```\{toctree\}(.+?)```", index, re.DOTALL))
    entries = re.findall(r"^(?:\w+ <)?((?:\.\./)*[\w/*-]+)>?$", trees, re.MULTILINE)
    found = {path.resolve() for entry in entries for end in ("md", "ipynb") for path in SITE.glob(f"{entry}.{end}")}
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *SITE.glob("*.md"),
        *ROOT.glob("experiments/*/README.md"),
        *ROOT.glob("notebooks/*.ipynb"),
    ]
    assert {path.resolve() for path in pages} - found == {(SITE / "index.md").resolve()}
    assert all(any(SITE.glob(f"{entry}.*")) for entry in entries)


def test_pages_are_adapted() -> None:
    prepare = runpy.run_path(str(SITE / "conf.py"))["prepare"]
    source = ["See [the tests](tests/), [README](README.md) and [a part](docs/cli.md#report)."]
    prepare(None, "README", source)
    assert source == ["See the tests, [README](README.md) and [a part](docs/cli.md#report)."]
    source = ["# Detectors\n"]
    prepare(None, "docs/site/detectors", source)
    listed = re.findall(r"automodule:: lightning_ood\.detectors\.([\w.]+)", source[0])
    files = [path for path in (ROOT / "lightning_ood" / "detectors").rglob("*.py") if not path.name.startswith("_")]
    assert sorted(name.rpartition(".")[2] for name in listed) == sorted(Path(path).stem for path in files)


def test_the_api_page_has_all_that_the_package_exports() -> None:
    """By name, by the module, or on the page of detectors, which lists every file of theirs."""
    page = (SITE / "api.md").read_text()
    for name in set(lightning_ood.__all__):
        module = inspect.getmodule(getattr(lightning_ood, name)).__name__  # type: ignore[union-attr]
        listed = f".{name}\n" in page or f"automodule:: {module}\n" in page
        assert listed or module.startswith("lightning_ood.detectors."), name


def test_make_builds_it_and_a_warning_is_an_error() -> None:
    assert "sphinx --fail-on-warning" in (ROOT / "Makefile").read_text()
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands.index("make docs") > commands.index("make test"), "the tests execute the notebooks for it"
