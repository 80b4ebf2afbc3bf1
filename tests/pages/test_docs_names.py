"""Every path, dotted name, command and option that a page names exists.

Pages are README, CONTRIBUTING, docs/, the experiments' pages, the notebooks, the comments of all YAML files, and the
newest section of the changelog.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lightning_ood.commands.cli import main
from tests.helpers.runs import ROOT
from tests.pages.test_docs_commands import BLOCK, NESTED, NOT_HERE, OF_OTHERS, commands, matching

MARKDOWN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *(page for folder in ("docs", "experiments") for page in sorted((ROOT / folder).rglob("*.md"), key=str)),
]
OTHERS = [
    *sorted((ROOT / "notebooks").glob("*.ipynb"), key=str),
    *(page for folder in ("configs", "experiments") for page in sorted((ROOT / folder).rglob("*.yaml"), key=str)),
]
PAGES = [*MARKDOWN, *OTHERS]
COMMANDS = ("check", "fit", "test", "features", "export", "predict", "monitor", "report", "compare")
COMMANDS += ("leaderboard", "sweep", "configs")
TREE = r"(?:lightning_ood|configs|experiments|tests|docs|notebooks|tools)"
PATH = re.compile(rf"(?<![\w/.-])({TREE}/[\w./-]*)(.?)")
DOTTED = re.compile(r"(?<![\w/.-])((?:lightning_ood|tools|experiments)(?:\.[A-Za-z_]\w*)+)")
FILE = re.compile(r"`([\w./-]+\.(?:py|yaml|md|csv|png|ipynb|json|parquet|ckpt|html))`")
MEMBER = re.compile(r"`(Backbone|Detector|DetectorSuite|Features|NetworkInfo|Reads)\.(\w+)")
HYPOTHETICAL = {"lightning_ood/detectors/class_direction.py"}  # the new_detector notebook says where it would be
OF_A_RUN = {  # what commands write
    *("scores.parquet", "metrics.csv", "config.yaml", "config.test.yaml", "fits.json", "last.ckpt", "trained.ckpt"),
    *("header.json", "summary.json", "curve.parquet", "detector.onnx"),
    *("doubts.csv", "provenance.json", "training.ckpt", "index.html", "reproduction.md", "reproduction.csv"),
    *("features.yaml", "head.safetensors", "failures.md", "tracking.json"),
}
OF_A_USER = {"my.yaml", "my_detectors.yaml", "two.yaml", "my_model.yaml", "my_table.yaml", "split.yaml"}
OF_AUTHORS = {"select_svhn_data.py"}  # other people's repositories

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text_of(page: Path) -> str:
    """What a reader of the page sees."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    if page.suffix == ".yaml":
        return "\n".join(re.findall(r"#.*", text))
    if page.name == "CHANGELOG.md":  # without the column of names that were
        newest = re.split(r"^## ", text, flags=re.MULTILINE)[1]
        return re.sub(r"^(\|[^|\n]*\|)[^|\n]*\|", r"\1", newest, flags=re.MULTILINE)
    return text


def resolve(name: str) -> Any:
    """The module or attribute of a dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or "?"):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text_of(page)):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@by_page
def test_paths_exist(page: Path) -> None:
    text = text_of(page)
    written = {name for name, _, _ in BLOCK.findall(text)} | HYPOTHETICAL
    for path, following in PATH.findall(text):
        if following and following in "$<{*…":  # a pattern: its folder exists
            path = path.rpartition("/")[0]
        path = path.rstrip("./-")
        assert path in written or (ROOT / path).exists(), path


@by_page
def test_files_in_backticks_exist(page: Path) -> None:
    text = text_of(page)
    known = {name for name, _, _ in BLOCK.findall(text)} | HYPOTHETICAL
    for name in FILE.findall(text):
        if Path(name).name in OF_A_RUN | OF_A_USER | OF_AUTHORS or name in known or name.startswith("runs/"):
            continue
        places = [page.parent, ROOT, ROOT / "configs", ROOT / "lightning_ood"]
        below = name == Path(name).name and any(any(place.rglob(name)) for place in (page.parent, ROOT / "configs"))
        assert below or any((place / name).exists() for place in places), name


@by_page
def test_dotted_names_can_be_imported(page: Path) -> None:
    text = text_of(page)
    written = {name.removesuffix(".py").replace("/", ".") for name, _, _ in BLOCK.findall(text)}
    for name in DOTTED.findall(text):
        if not any(f"{name}.".startswith(f"{module}.") for module in written if module):
            resolve(name)
    for module, names in re.findall(r"^from (lightning_ood[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        for name in names.split(",") if module not in written else ():
            resolve(f"{module}.{name.strip()}")


@by_page
def test_members_exist(page: Path) -> None:
    from lightning_ood.backbone import Backbone
    from lightning_ood.detectors.base import Detector
    from lightning_ood.features import Features, NetworkInfo, Reads
    from lightning_ood.suite import DetectorSuite

    kinds = {kind.__name__: kind for kind in (Backbone, Detector, DetectorSuite, Features, NetworkInfo, Reads)}
    for name, member in MEMBER.findall(text_of(page)):
        kind = kinds[name]
        fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        assert hasattr(kind, member) or member in fields, f"{name}.{member}"


@by_page
def test_scripts_take_the_options_that_a_page_gives_them(page: Path) -> None:
    for line in text_of(page).replace("\\\n", " ").splitlines():
        for script, arguments in re.findall(r"python ((?:experiments|tools)/[\w/]+\.py)([^|;>#]*)", line):
            source = (ROOT / script).read_text() + (ROOT / "experiments" / "kit.py").read_text()
            for option in re.findall(r"(--[a-z_]+)", arguments.split(" -- ")[0]):
                assert f'"{option}"' in source, f"{script} {option}"


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of all commands."""
    printed = io.StringIO()
    for command in COMMANDS:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
            main([command, "--help"])
    return set(re.findall(r"--[\w.]*\w", printed.getvalue()))


@by_page
def test_commands_and_options_exist(page: Path, options: set[str]) -> None:
    text = text_of(page)
    for command in re.findall(r"train\.py ([a-z]\w*)", text):
        assert command in {*COMMANDS, "fit_test"}, command
    for command in commands(page):
        if matching(NOT_HERE, command) and "train.py" not in command:
            text = text.replace(command, "")
    text = re.sub(r"torchrun .*\\\n|#SBATCH.*|python \S*(?:experiments|tools)/.*|pip install.*", "", text)
    beside = {
        option for script in page.parent.glob("*.py") for option in re.findall(r'"(--[a-z_]+)"', script.read_text())
    }
    for option in re.findall(r"(?<![\w-])--[a-z][\w./-]*\w", text):
        assert option in options | OF_OTHERS | beside or option.startswith(NESTED), option
