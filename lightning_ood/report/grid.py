"""Detectors by sets: rows and columns of the tables on the console and on the page, the best mean AUROC first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.rates import METRICS
from lightning_ood.report.table import FULL_SPECTRUM, INTERVALS, MEAN


@dataclass(frozen=True)
class Column:
    """A column: a set, the mean of a group, or the mean over all sets.

    Attributes:
        group: group of the set, empty for the mean over all sets.
        dataset: name of the set, or ``mean``.
        full: counts covariate-shifted images as ID (full spectrum).
    """

    group: str
    dataset: str
    full: bool = False

    @property
    def title(self) -> str:
        """Heading: the set, ``<group> mean`` or ``mean``."""
        if self.dataset != MEAN:
            return self.dataset.removeprefix(FULL_SPECTRUM)
        return f"{self.group.removeprefix(FULL_SPECTRUM)} {MEAN}".strip()


@dataclass(frozen=True)
class Grid:
    """Values of every metric and interval end, ``[D, C]`` in percent; NaN where a cell has none.

    Attributes:
        detectors: D names, the best mean AUROC first.
        columns: C columns; those of the full spectrum last.
        values: metric, or end of an interval -> values.
    """

    detectors: Sequence[str]
    columns: Sequence[Column]
    values: Mapping[str, NDArray[np.float64]]


def grid(metrics: pd.DataFrame) -> Grid:
    """Arranges the rows of metrics.csv.

    A mean that repeats a single set is left out. The mean over all sets weighs every set alike and has no interval.

    Args:
        metrics: result of ``summarise``.
    """
    sets = metrics[metrics["dataset"] != MEAN][["group", "dataset"]].drop_duplicates()
    views = [[part for part in _by_group(sets) if part[0].startswith(FULL_SPECTRUM) == full] for full in (False, True)]
    detectors = list(metrics["detector"].drop_duplicates())
    table = metrics.set_index(["detector", "dataset", "group"])
    names = [name for name in (*METRICS, *INTERVALS) if name in metrics]
    columns: list[Column] = []
    cells: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for full, view in enumerate(views):
        members = [Column(group, dataset, bool(full)) for group, datasets in view for dataset in datasets]
        for column in _columns(view, bool(full)):
            averaged = members if not column.group else [column]
            columns.append(column)
            for name in names:
                parts = [_column(table[name], detectors, part) for part in averaged]
                only = column.group or name not in INTERVALS
                cells[name].append(np.mean(parts, axis=0) if only else np.full(len(detectors), np.nan))
    values = {name: np.stack(found, axis=1) for name, found in cells.items()}
    order = np.argsort(-values["auroc"][:, 0], kind="stable")
    return Grid([detectors[i] for i in order], columns, {name: found[order] for name, found in values.items()})


def _by_group(sets: pd.DataFrame) -> list[tuple[str, list[str]]]:
    return [(str(group), [str(name) for name in rows["dataset"]]) for group, rows in sets.groupby("group", sort=False)]


def _columns(groups: Sequence[tuple[str, Sequence[str]]], full: bool) -> list[Column]:
    """Returns the mean over all sets, then each group's mean and its sets."""
    found = [Column("", MEAN, full)] if sum(len(datasets) for _, datasets in groups) > 1 else []
    for group, datasets in groups:
        if len(groups) > 1 and len(datasets) > 1:
            found.append(Column(group, MEAN, full))
        found += [Column(group, dataset, full) for dataset in datasets]
    return found


def _column(values: pd.Series, detectors: Sequence[str], column: Column) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.to_numpy(dtype=np.float64)[
        values.index.get_indexer([(name, column.dataset, column.group) for name in detectors])
    ]
    return found


def within(grid: Grid, metric: str, falling: bool) -> NDArray[np.bool_]:
    """Marks the values inside the 95 % interval of the best of their column: ``[D, C]``."""
    values = grid.values[metric]
    best = values.argmin(axis=0) if falling else values.argmax(axis=0)
    at = (best, np.arange(values.shape[1]))
    end = grid.values[f"{metric}_high" if falling else f"{metric}_low"][at]
    return values <= end if falling else values >= end  # NaN ends mark none
