"""The leaderboard: one self-contained HTML page, a table for each list of images, detectors of several runs by sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightning_ood.metrics.rates import METRICS, falls
from lightning_ood.report.boards import Entry, Published, differences, group_entries
from lightning_ood.report.grid import Column, Grid, grid, within
from lightning_ood.report.page import TITLES, numbers, template
from lightning_ood.report.table import FULL_SPECTRUM, INTERVALS, MEAN, is_best, limit_line

_Cell = dict[str, Any]
_RUN_FACTS = ("network", "weights", "weights_sha256", "fitted_on", "limit", "command")


def render_leaderboard(
    entries: Sequence[Entry], published: Sequence[Published] = (), title: str = "Leaderboard"
) -> str:
    """Renders the page as HTML that needs no network and no other file.

    Args:
        entries: the runs; those on different images are in different tables.
        published: values of papers, shown without a rank where a table has their ID set and one of their sets.
        title: title of the page.
    """
    boards = [_Board(group, published) for group in group_entries(entries)]
    return template("leaderboard.html").render(
        title=title,
        boards=[board.shown() for board in boards],
        entries=entries,
        differences=differences(entries),
        titles=TITLES,
        facts=_RUN_FACTS,
        data={
            "metrics": {name: {"falls": falls(name)} for name in METRICS},
            "boards": [board.data() for board in boards],
        },
    )


class _Board:
    """A table of runs on the same images, and the published rows that fit it."""

    def __init__(self, entries: Sequence[Entry], published: Sequence[Published]) -> None:
        self.entries = entries
        parts = [entry.metrics.assign(detector=[f"{i}/{name}" for name in entry.metrics["detector"]]) for i, entry in
                 enumerate(entries)]  # fmt: skip
        self.table: Grid = grid(pd.concat(parts, ignore_index=True))
        self.rows = [(entries[int(key.partition("/")[0])], key.partition("/")[2]) for key in self.table.detectors]
        lists = entries[0].lists
        self.known = next(x for x in lists if x["role"] == "id")
        groups: dict[str, set[str]] = {}
        for x in lists:
            if x["role"] == "ood":
                groups.setdefault(x["group"], set()).add(x["dataset"])
        self.sets = [_sets_of(column, groups) for column in self.table.columns]
        mine = [row for row in published if row.id == self.known["dataset"]]
        self.published = [row for row in mine if any(sets in row.cells for sets in self.sets)]

    def values(self, name: str) -> list[list[float | None]]:
        """Values of a metric, or ends of its intervals, of the runs' rows and then of the published ones."""
        cells = [[row.cells.get(sets, {}).get(name) for sets in self.sets] for row in self.published]
        return [*numbers(self.table.values[name]), *cells]

    def data(self) -> dict[str, Any]:
        """What the script of the page reads."""
        return {
            "values": {name: self.values(name) for name in (*METRICS, *INTERVALS)},
            "doubts": [list(entry.doubts.get(name, ())) for entry, name in self.rows],
            "full": [column.full for column in self.table.columns],
        }

    def shown(self) -> dict[str, Any]:
        """What the template shows: AUROC; the script writes the other metrics."""
        auroc, near = self.table.values["auroc"], within(self.table, "auroc", falling=False)
        best, low, high = is_best(auroc, "auroc"), self.table.values["auroc_low"], self.table.values["auroc_high"]
        rows = [
            {
                "name": name,
                "run": entry.name,
                "doubts": len(entry.doubts.get(name, ())),
                "cells": [_cell(*cell) for cell in zip(auroc[i], low[i], high[i], best[i], near[i], strict=True)],
            }
            for i, (entry, name) in enumerate(self.rows)
        ]
        for row, values in zip(self.published, self.values("auroc")[len(rows) :], strict=True):
            cells = [_cell(np.nan if value is None else value) for value in values]
            rows.append({"name": row.method, "run": row.network, "source": row.source, "cells": cells, "doubts": 0})
        return {
            "id": self.known,
            "lists": self.entries[0].lists,
            "limits": sorted({limit_line(entry.about.get("limit")) for entry in self.entries} - {""}),
            "runs": [entry.name for entry in self.entries],
            "columns": self.table.columns,
            "rows": rows,
            "published": len(self.published),
            "sources": list(dict.fromkeys((row.network, row.source) for row in self.published)),
            "doubtful": any(row["doubts"] for row in rows),
            "full": any(column.full for column in self.table.columns),
        }


def _cell(value: float, low: float = np.nan, high: float = np.nan, best: bool = False, near: bool = False) -> _Cell:
    text, *ends = ("" if np.isnan(number) else f"{number:.1f}" for number in (value, low, high))
    return {"text": text, "ends": "\N{EN DASH}".join(filter(None, ends)), "best": best, "near": near and not best}


def _sets_of(column: Column, groups: dict[str, set[str]]) -> frozenset[str]:
    """The sets that a column is the mean of; none in the full spectrum, which no published row is compared with."""
    if column.full:
        return frozenset()
    if column.dataset != MEAN:
        return frozenset([column.dataset])
    group = column.group.removeprefix(FULL_SPECTRUM)
    return frozenset(groups[group] if group else set().union(*groups.values()))
