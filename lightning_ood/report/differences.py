"""Metrics of runs on the same images, and differences between them with intervals and p-values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.paired import Difference, Placements, adjusted, auroc_difference, bootstrap, drawn_difference
from lightning_ood.metrics.paired_fpr95 import Decisions, fpr95_difference
from lightning_ood.metrics.rates import falls
from lightning_ood.report.paper import PRINTED, Cell, Grid
from lightning_ood.report.table import INTERVALS, MEAN, detectors_of, rows_of, summarise

ALPHA = 0.05
Entry = tuple[str, str]  # run (or the name of its repetitions), detector
Test = Callable[[Entry, Entry, Sequence[str], float], Difference]  # baseline, other, sets, their difference
_WHERE = ["run", "detector", "dataset", "group"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Tables of scores of several runs on the same images, with rows in one order.

    Attributes:
        runs: run -> tables of its repetitions.
    """

    runs: Mapping[str, Sequence[pd.DataFrame]]

    @property
    def images(self) -> pd.DataFrame:
        """The first table; its columns of images are the same in all runs."""
        return next(iter(self.runs.values()))[0]

    @cached_property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Rows of each OOD set; rows of the ID images under the empty name."""
        return rows_of(self.images)

    @cached_property
    def means(self) -> dict[tuple[str, str], list[str]]:
        """(dataset, group) of each table row -> the sets that it averages, without means of one set."""
        found = self.images[self.images["role"] == "ood"].groupby("group", sort=False)["dataset"].unique()
        groups = {str(group): [str(name) for name in names] for group, names in found.items()}
        singles = {(name, group): [name] for group, names in groups.items() for name in names}
        return singles | {(MEAN, group): names for group, names in groups.items() if len(names) > 1}

    @property
    def entries(self) -> list[Entry]:
        """(run, detector) pairs with the detectors that all repetitions of the run have."""
        common = {
            run: [name for name in detectors_of(first) if all(name in other for other in others)]
            for run, (first, *others) in self.runs.items()
        }
        return [(run, name) for run, names in common.items() for name in names]

    def of(self, entry: Entry, name: str) -> list[NDArray[Any]]:
        """Returns the scores of a set's images in each repetition."""
        return [table[entry[1]].to_numpy()[self.sets[name]] for table in self.runs[entry[0]]]


def measure(scores: Scores, entries: Sequence[Entry]) -> pd.DataFrame:
    """Computes one row per run, detector and set or group mean.

    Returns:
        ``fpr95`` and ``auroc`` in percent, means over the repetitions; ``fpr95_std`` and ``auroc_std``, their standard
        deviations (with n - 1; NaN of one repetition); ``repetitions``; the ends of the 95 % intervals ``auroc_low`` …
        (NaN of several); ``n_id`` and ``n_ood``.
    """
    parts = []
    for run, tables in scores.runs.items():
        wanted = [name for of, name in entries if of == run]
        hidden = [[name for name in detectors_of(table) if name not in wanted] for table in tables]
        metrics = pd.concat([summarise(t.drop(columns=h)) for t, h in zip(tables, hidden, strict=True)])
        grouped = metrics.groupby(_WHERE[1:], sort=False)[list(PRINTED)]
        first = metrics.groupby(_WHERE[1:], sort=False)[[*INTERVALS, "n_id", "n_ood"]].first()
        if len(tables) > 1:
            first[list(INTERVALS)] = np.nan
        columns = [grouped.mean(), grouped.std(ddof=1).add_suffix("_std"), grouped.size().rename("repetitions"), first]
        parts.append(pd.concat(columns, axis=1).reset_index().assign(run=run))
    table = pd.concat(parts, ignore_index=True)
    return table[["run", *table.columns.drop("run")]]


def differences(
    scores: Scores,
    values: pd.DataFrame,
    pairs: Sequence[tuple[Entry, Entry]],
    draws: int = 2000,
    seed: int = 0,
    drawn: bool = False,
    correct: Literal["none", "holm", "bh"] = "none",
) -> pd.DataFrame:
    """Computes other minus baseline in percentage points, one row per pair, set or group mean, and metric.

    Args:
        scores: scores of the runs.
        values: result of ``measure`` for the runs.
        pairs: pairs (baseline, other).
        draws: number of resamples of the paired bootstrap.
        seed: seed of the draws.
        drawn: tests both with the paired bootstrap instead of DeLong's test and the delta method.
        correct: adjusts the p-values for the number of comparisons, over all rows; see
            :func:`lightning_ood.metrics.paired.adjusted`.
    """
    entries = list(dict.fromkeys(entry for pair in pairs for entry in pair))
    tests = _drawn_tests(scores, entries, draws, seed) if drawn else _exact_tests(scores, entries)
    measured = values.set_index(_WHERE)
    rows = []
    for first, second in pairs:
        names = {"run": second[0], "detector": second[1], "baseline_run": first[0], "baseline": first[1]}
        for (dataset, group), members in scores.means.items():
            for metric, (name, test) in tests.items():
                a, b = (float(measured.loc[(*entry, dataset, group), metric]) for entry in (first, second))
                found = test(first, second, members, (b - a) / 100)
                better = (b > a) != falls(metric)
                rows.append(
                    {**names, "dataset": dataset, "group": group, "metric": metric, "baseline_value": a, "value": b}
                    | {"difference": b - a, "low": 100 * found.low, "high": 100 * found.high}
                    | {"p_value": found.p_value, "test": name}
                    | {"verdict": ("better" if better else "worse") if found.p_value < ALPHA else "undecided"}
                )
    table = pd.DataFrame(rows)
    if correct == "none":
        return table
    table.insert(table.columns.get_loc("p_value") + 1, "p_adjusted", adjusted(table["p_value"], correct))
    table["verdict"] = table["verdict"].where(table["p_adjusted"] < ALPHA, "undecided")
    return table


def _exact_tests(scores: Scores, entries: Sequence[Entry]) -> dict[str, tuple[str, Test]]:
    """Returns metric -> name of the test and the test, with variances by formula."""
    return {
        "fpr95": ("delta method", _paired(scores, entries, Decisions.of, fpr95_difference)),
        "auroc": ("DeLong", _paired(scores, entries, Placements.of, auroc_difference)),
    }


def _drawn_tests(scores: Scores, entries: Sequence[Entry], draws: int, seed: int) -> dict[str, tuple[str, Test]]:
    """Returns metric -> name of the test and the test, by the paired bootstrap."""
    metrics: tuple[Literal["fpr95", "auroc"], ...] = ("fpr95", "auroc")
    return {
        metric: (f"paired bootstrap, {draws} draws", _bootstrap(scores, entries, draws, seed, metric))
        for metric in metrics
    }


def _paired(
    scores: Scores, entries: Sequence[Entry], of: Callable[..., Any], compare: Callable[..., Difference]
) -> Test:
    held = {
        (entry, name): of(scores.of(entry, ""), scores.of(entry, name))
        for entry in entries
        for name in scores.sets
        if name
    }

    def test(first: Entry, second: Entry, members: Sequence[str], estimate: float) -> Difference:
        return compare(*([held[entry, name] for name in members] for entry in (first, second)))

    return test


def _bootstrap(
    scores: Scores, entries: Sequence[Entry], draws: int, seed: int, metric: Literal["fpr95", "auroc"]
) -> Test:
    stacked = {name: np.stack([s for entry in entries for s in scores.of(entry, name)]) for name in scores.sets}
    owner = np.repeat(range(len(entries)), [len(scores.runs[run]) for run, _ in entries])
    drawn = bootstrap(stacked.pop(""), stacked, draws, seed, metric)
    held = {
        (entry, name): values[owner == e].mean(axis=0)
        for name, values in drawn.items()
        for e, entry in enumerate(entries)
    }

    def test(first: Entry, second: Entry, members: Sequence[str], estimate: float) -> Difference:
        sides = (np.mean([held[entry, name] for name in members], axis=0) for entry in (first, second))
        return drawn_difference(estimate, *sides)

    return test


def difference_table(rows: pd.DataFrame) -> Grid:
    """Builds the table of both differences per pair and set, with interval and p-value; bold where the other is better.

    Args:
        rows: result of ``differences``.
    """
    several = len({*rows["run"], *rows["baseline_run"]}) > 1
    names = ["run", "detector", "baseline_run"] if several else ["detector"]
    if (rows["baseline"] != rows["detector"]).any():
        names.append("baseline")
    lines = []
    for key, part in rows.groupby(["run", "detector", "baseline_run", "baseline", "dataset", "group"], sort=False):
        names_of = dict(
            zip(("run", "detector", "baseline_run", "baseline", "dataset", "group"), map(str, key), strict=True)
        )
        where = f"{names_of['group']} mean" if names_of["dataset"] == MEAN else names_of["dataset"]
        found = part.set_index("metric")
        cells = [[Cell(_format(found.loc[metric]), found.loc[metric, "verdict"] == "better")] for metric in PRINTED]
        lines.append(([*(names_of[name] for name in names), where], cells))
    labels = [name.replace("_", " ") for name in names]
    return Grid([*labels, "set"], [(f"Δ {' '.join(text)}", [""]) for text in PRINTED.values()], lines)


def _format(row: pd.Series) -> str:
    value = row.get("p_adjusted", row["p_value"])
    p = "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    return f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], {p}"
