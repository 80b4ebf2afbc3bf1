"""Ours beside the published value, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from experiments.reproduce.published import Row, Table
from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import MEAN

COLUMNS = (
    "table",
    "row",
    "column",
    "metric",
    "published",
    "ours",
    "low",
    "high",
    "difference",
    "outside",
    "set",
    "why",
)
NAMES = {
    "auroc": "AUROC",
    "fpr95": "FPR95 (ID positive)",
    "fpr95_ood_positive": "FPR95 (OOD positive)",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
}


def compare(table: Table, metrics: pd.DataFrame | None, missing: Mapping[str, str], reason: str = "") -> pd.DataFrame:
    """A row per published cell.

    Args:
        table: as published.
        metrics: metrics.csv of the run that serves it; None where there is none.
        missing: set -> why it is not here.
        reason: why there is no run.

    Returns:
        ``COLUMNS``: ``outside`` where the 95 % interval excludes the published value; ``why`` where there is no value.
    """
    rows = []
    for row in table.rows:
        for column, cells in row.cells.items():
            entry, name, why = (None, "", reason) if metrics is None else _find(table, row, column, metrics, missing)
            for metric, value in cells.items():
                base = {"table": table.name, "row": row.name, "column": column, "metric": metric, "published": value}
                rows.append({**base, **_against(entry, metric, value), "set": name, "why": why})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _find(
    table: Table, row: Row, column: str, metrics: pd.DataFrame, missing: Mapping[str, str]
) -> tuple[pd.Series | None, str, str]:
    """The row of metrics.csv that a cell is compared with, the name of its set, or why there is none."""
    if not row.detector:
        return None, "", row.differs
    mine = metrics[metrics["detector"] == row.detector]
    if column in table.means:
        wanted = set(table.means[column])
        for group, sets in mine[mine["dataset"] != MEAN].groupby("group")["dataset"]:
            if set(sets) == wanted:
                return mine[(mine["dataset"] == MEAN) & (mine["group"] == group)].iloc[0], f"mean of {group}", ""
        others = ", ".join(sorted(wanted - set(mine["dataset"]))) or "no set"
        return None, "", f"its mean is over {len(wanted)} sets, of which {others} is not here"
    for name in table.columns[column]:
        found = mine[mine["dataset"] == name]
        if len(found):
            return found.iloc[0], name, ""
    return None, "", missing.get(table.columns[column][0], "not in the config")


def _against(entry: pd.Series | None, metric: str, published: float) -> dict[str, object]:
    if entry is None:
        return {}
    low, high = entry.get(f"{metric}_low"), entry.get(f"{metric}_high")
    outside = None if low is None else not low <= published <= high
    return {
        "ours": entry[metric],
        "low": low,
        "high": high,
        "difference": entry[metric] - published,
        "outside": outside,
    }


def markdown(table: Table, cells: pd.DataFrame, files: tuple[str, ...], differs: str) -> str:
    """A table's page: what it is, a line per method and set that could be computed, what is not here."""
    about = table.about
    lines = [f"## {about['title']} (`{table.name}`)", ""]
    lines += [f"Published: {about['source']} {about['checked']}"]
    lines += [f"Network: {about['network']} Fitted on {about['fitted_on']}", ""]
    there = cells[cells["ours"].notna()]
    if len(there):
        lines += [f"Ours: {', '.join(f'`{Path(file).name}`' for file in files)}. {differs}".rstrip(), ""]
        lines += [_rows(table, there)]
        notes = {row.name: row.differs for row in table.rows if row.differs and row.name in set(there["row"])}
        lines += [*([""] if notes else []), *(f"- **{name}**: {note}" for name, note in notes.items())]
    gone = cells[cells["ours"].isna()]
    if len(gone):
        lines += ["", "Not here:", ""]
        for why, group in gone.groupby("why", sort=False):
            lines.append(f"- {_which(group, gone, cells)}: {why or 'listed only'}")
    return "\n".join(lines)


def _which(group: pd.DataFrame, gone: pd.DataFrame, cells: pd.DataFrame) -> str:
    """The cells that lack for one reason, in words."""
    if len(group) == len(cells):
        return "the whole table"
    columns, rows = (", ".join(dict.fromkeys(group[key])) for key in ("column", "row"))
    return columns if set(group["row"]) == set(gone["row"]) else f"{columns} of {rows}"


def _rows(table: Table, cells: pd.DataFrame) -> str:
    heads = [part for metric in table.metrics for part in (NAMES[metric], "published", "difference")]
    rows = []
    for (row, column), group in cells.groupby(["row", "column"], sort=False):
        known = group.set_index("metric")
        name = known["set"].iloc[0]
        parts = [part for metric in table.metrics for part in _three(known, metric)]
        stands_in = f" ({name})" if column in table.columns and name != table.columns[column][0] else ""
        rows.append([str(row), f"{column}{stands_in}", *parts])
    return markdown_table(["method", "set", *heads], rows, labels=2)


def _three(known: pd.DataFrame, metric: str) -> list[str]:
    """Ours with its interval, theirs, the difference; starred where the interval excludes theirs."""
    if metric not in known.index:
        return ["", "", ""]
    cell = known.loc[metric]
    interval = "" if pd.isna(cell["low"]) else f" [{cell['low']:.1f}, {cell['high']:.1f}]"
    mark = " \\*" if cell["outside"] is True else ""
    return [f"{cell['ours']:.1f}{interval}", f"{cell['published']:.2f}", f"{cell['difference']:+.1f}{mark}"]
