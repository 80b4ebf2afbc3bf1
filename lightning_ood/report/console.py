"""The results table on the terminal: detectors by sets, readable at 80 columns and in a log file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from lightning_ood.report.doubts import Doubts, print_doubts
from lightning_ood.report.grid import Column, Grid, grid
from lightning_ood.report.table import FULL_SPECTRUM, LIMIT, MEAN, is_best, limit_line, without_csid

_NUMBER = 6  # "100.0*"; the star's place separates the columns
_PAIR = 14  # " 100.0*/100.0*"
_NAME = 30  # longer names are folded where the columns need the room
_MARK, _DOUBT = "*", " !"
_METRICS = {"auroc": "AUROC", "fpr95": "FPR95"}

Costs = Mapping[str, Mapping[str, int]]  # detector -> Detector.extra_forwards


@dataclass(frozen=True)
class _Layout:
    """What one table shows, and how wide its names and cells are."""

    title: str
    metrics: Sequence[str]
    name: int
    cell: int
    longest: int  # characters of a name on one line


def print_table(
    metrics: pd.DataFrame,
    accuracy: float | None = None,
    console: Console | None = None,
    costs: Costs | None = None,
    doubts: Doubts | None = None,
) -> None:
    """Prints AUROC and FPR95 in percent, detectors by sets and means, the best mean AUROC first.

    Both metrics share a table where the console is wide enough, and else have one each; a table that is still too wide
    continues in another. The best of a column are bold and starred, doubtful rows are marked. Names of detectors are
    folded only where they are longer than 30 characters and the columns need the room.

    Args:
        metrics: result of ``summarise``.
        accuracy: accuracy on the ID images in percent.
        console: console to print on, standard output by default; its width sets the layout.
        costs: extra forwards per image of each detector and command; told below the table where any is not 0.
        doubts: detector -> what is doubtful about its row; told below the table.
    """
    console = console or Console()
    table = grid(metrics)
    doubtful = {name for name, said in (doubts or {}).items() if said}
    for full in dict.fromkeys(column.full for column in table.columns):
        chosen = [i for i, column in enumerate(table.columns) if column.full == full]
        for layout, part in _layouts(table, chosen, console.width, " (full spectrum)" if full else ""):
            for line in _lines(table, part, layout, doubtful):
                console.print(line, no_wrap=True, crop=False)
    console.print(Text(f"\n{caption(metrics, accuracy)}"))
    if said := cost_line(costs or {}):
        console.print(Text(said))
    print_doubts(doubts or {}, console)


def caption(metrics: pd.DataFrame, accuracy: float | None) -> str:
    """Describes the numbers: counts of images, accuracy and the definition of FPR95."""
    sets = without_csid(metrics[metrics["dataset"] != MEAN]).drop_duplicates(["group", "dataset"])
    counts = "; ".join(
        f"{group}: " + ", ".join(f"{row.dataset} {row.n_ood}" for row in rows.itertuples())
        for group, rows in sets.groupby("group", sort=False)
    )
    shifted = metrics.attrs.get("shifted", {})
    shifted_sets = ", ".join(f"{name} {n} (accuracy {_percent(share)})" for name, (n, share) in shifted.items())
    limit = f"{limit_line(int(metrics[LIMIT].iloc[0]))}\n" if LIMIT in metrics else ""
    full = f"Full spectrum ({FULL_SPECTRUM}…) counts these images as ID too: {shifted_sets}.\n" if shifted else ""
    return (
        f"In-distribution (ID): {int(metrics['n_id'].iloc[0])} images, accuracy {_percent(accuracy)}. "
        f"Out-of-distribution (OOD) images: {counts}.\n{limit}{full}"
        f"Cells: percent; {_MARK} = best of the column; rows by their mean AUROC. FPR95: ID is the positive class, the "
        "share of OOD images that score at or above the threshold that keeps 95 % of the ID images."
    )


def _percent(accuracy: float | None) -> str:
    return "unknown (no labels)" if accuracy is None else f"{accuracy:.1f} %"


def _layouts(table: Grid, columns: Sequence[int], width: int, title: str) -> list[tuple[_Layout, Sequence[int]]]:
    """Divides the columns into tables that fit the width."""
    name = max(len("detector"), *map(len, table.detectors)) + len(_DOUBT)
    longest = 2 + max(len(table.columns[i].title) for i in columns)
    if name + len(columns) * _PAIR <= width:
        cell = max(_PAIR, min(longest, (width - name) // len(columns)))
        return [(_Layout(f"AUROC / FPR95{title}", list(_METRICS), name, cell, name - len(_DOUBT)), columns)]
    name += 1  # between the mark of a doubt and the first number
    if name + len(columns) * _NUMBER > width:
        name = min(name, _NAME + len(_DOUBT) + 1)
    count = max(1, (width - name) // _NUMBER)
    parts = [columns[start : start + count] for start in range(0, len(columns), count)]
    cell = max(_NUMBER, min(longest, (width - name) // len(parts[0])))
    return [
        (_Layout(f"{text}{title}", [metric], name, cell, name - len(_DOUBT) - 1), part)
        for metric, text in _METRICS.items()
        for part in parts
    ]


def _lines(table: Grid, columns: Sequence[int], layout: _Layout, doubtful: set[str]) -> list[Text]:
    """Formats one table."""
    rule = Text("─" * (layout.name + len(columns) * layout.cell))
    lines = [Text(f"\n{layout.title}", style="italic"), *_heads([table.columns[i] for i in columns], layout), rule]
    best = {metric: is_best(table.values[metric], metric) for metric in layout.metrics}
    for row, detector in enumerate(table.detectors):
        mark = _DOUBT if detector in doubtful else ""
        pieces = [detector[at : at + layout.longest] for at in range(0, len(detector), layout.longest)]
        line = Text(pieces[0]).append(mark, style="yellow")
        line.append(" " * (layout.name - len(line)))
        for column in columns:
            cell = [_number(table.values[m][row, column], bool(best[m][row, column])) for m in layout.metrics]
            text = Text("/").join(cell)
            line.append(" " * (layout.cell - len(text))).append_text(text)
        lines += [line, *map(Text, pieces[1:])]
    return lines


def _number(value: float, best: bool) -> Text:
    return Text("    - ") if np.isnan(value) else Text(f"{value:5.1f}{_MARK if best else ' '}", "bold" if best else "")


def _heads(columns: Sequence[Column], layout: _Layout) -> list[Text]:
    """Writes each heading so that it ends above its column, on the lowest line on which it has the room.

    A name that is longer than its column is wide reaches over the columns before it, on a line of its own.
    """
    lines: list[str] = ["detector"]
    for i, column in enumerate(columns):
        end = layout.name + (i + 1) * layout.cell - 1
        title = column.title[-end:]
        for level in range(len(lines) + 1):
            if level == len(lines):
                lines.append("")
            if len(lines[level]) + (2 if lines[level] else 0) <= end - len(title):
                lines[level] = lines[level].ljust(end - len(title)) + title
                break
    return [Text(line, style="bold") for line in reversed(lines)]


def cost_line(costs: Costs) -> str:
    """Names the detectors that need more than the shared forward pass, by what they need."""
    by_cost: dict[str, list[str]] = {}
    for name, cost in costs.items():
        text = " + ".join(f"{n} {job}" for job, n in cost.items() if n)
        if text:
            by_cost.setdefault(text, []).append(name)
    told = "; ".join(f"{cost}: {', '.join(names)}" for cost, names in by_cost.items())
    return f"Extra passes per image: {told}." if told else ""
