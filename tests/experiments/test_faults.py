"""A short form of the experiment with faults: no trial is wrong, lost, hung, executed, or a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.faults import damage, given, machine
from experiments.faults.bench import Bench, Trial, make_base
from experiments.faults.run import RESULTS, table
from tests.helpers.commands import Commands

SHORT: list[tuple[Callable[[int], Iterator[Trial]], tuple[int, ...]]] = [
    (machine.kills, (0,)),
    (machine.places, (5, 19)),
    (damage.bits, (0, 3)),
    (damage.truncations, (0,)),
    (damage.hostile, (0, 2)),
    (damage.structures, (0, 2)),
    (damage.tables, (1, 10)),
    (given.configs, (0, 2, 5)),
    (given.arguments, (0, 24)),
    (given.environment, (0, 8)),
    (given.pictures, (1, 19)),
]


@pytest.fixture(scope="module")
def base(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_base(folder, commands, ["plain"])
    return folder


def test_a_short_form(base: Path, commands: Commands, tmp_path: Path) -> None:
    outcomes = []
    for make, numbers in SHORT:
        trials = list(make(max(numbers) + 1))
        for number in numbers:
            (folder := tmp_path / f"{make.__name__}{number}").mkdir()
            bench = Bench(commands, base, folder)
            outcomes.append((trials[number], trials[number].play(bench, random.Random(number)), bench.said))
    assert len(outcomes) == 21
    bad = [outcome for outcome in outcomes if outcome[1] not in ("clear", "right")]
    assert not bad, bad
    assert "| all | 21 |" in table(outcomes)


def test_the_page_quotes_its_table() -> None:
    rows = (RESULTS / "table.md").read_text().splitlines()
    page = (RESULTS.parent / "README.md").read_text()
    assert all(row in page for row in rows)
    tried, *counts = (int(cell) for cell in rows[-1].split("|")[2:-1])
    assert tried >= 1000 and sum(counts[:2]) == tried and not any(counts[2:])
