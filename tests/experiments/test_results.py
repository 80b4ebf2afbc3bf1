"""A result stands in one place, results/; what a page quotes from there is the same number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

FOLDER = ROOT / "experiments"
WITH_RESULTS = sorted(page for page in FOLDER.glob("*/README.md") if (page.parent / "results").is_dir())


def rows(text: str) -> list[list[str]]:
    """Cells of Markdown tables, without marks of the best."""
    lines = re.findall(r"^\|(.*)\|$", text.replace("*", ""), re.MULTILINE)
    return [[" ".join(cell.split()) for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize("page", WITH_RESULTS, ids=lambda page: page.parent.name)
def test_what_a_page_quotes_is_in_its_results(page: Path) -> None:
    results = "\n".join(path.read_text() for path in (page.parent / "results").glob("*.md"))
    known = set(re.findall(r"\d+\.\d+", results))
    quoted = {value for row in rows(page.read_text()) for cell in row[1:] for value in re.findall(r"\d+\.\d+", cell)}
    assert not quoted - known


def test_the_readme_quotes_the_cifar10_table() -> None:
    table = {row[0]: row for row in rows((FOLDER / "cifar10" / "results" / "densenet.md").read_text())}
    quoted = [row for row in rows((ROOT / "README.md").read_text()) if len(row) == 6]
    assert len(quoted) == 12
    for row in quoted:
        assert row == table[row[0]] or set("".join(row)) <= set("-: "), row[0]


def test_the_digits_of_the_experiment_are_those_of_the_readme() -> None:
    """To 0.5: the experiment trained the network with the same settings that the shipped one was trained with."""
    table = {row[0]: row[1:] for row in rows((FOLDER / "digits" / "results" / "resnet.md").read_text())}
    readme = (ROOT / "README.md").read_text()
    found = {}
    for metric, at in (("AUROC", 1), ("FPR95", 0)):
        block = re.search(rf"^{metric}\n.*?\n\n", readme, re.MULTILINE | re.DOTALL)
        assert block is not None
        for name, line in re.findall(r"^(\w+)(?: !)? +([\d. *]+)$", block[0], re.MULTILINE):
            _, near, _, *far = (float(value) for value in re.findall(r"[\d.]+", line))
            expected = [float(cell.replace("*", "").split(" / ")[at]) for cell in table[name]]
            assert [near, *far] == pytest.approx(expected, abs=0.5), (metric, name)
            found[metric, name] = near
    assert len(found) == 20
