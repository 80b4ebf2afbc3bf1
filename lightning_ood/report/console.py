"""The results table on the terminal: detectors by sets, readable at 80 columns and in a log file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_ood.report.doubts import Doubts, print_doubts
from lightning_ood.report.table import FULL_SPECTRUM, MEAN, is_best, without_csid

_CELL = 13  # "100.0*/100.0*"
_GAP = 2
_NAME = 30  # longer names are wrapped
_MARK = "*"


@dataclass(frozen=True)
class _Column:
    title: str
    cells: dict[str, Text]  # detector -> cell
    width: int = _CELL


Costs = Mapping[str, Mapping[str, int]]  # detector -> Detector.extra_forwards


def print_table(
    metrics: pd.DataFrame,
    accuracy: float | None = None,
    console: Console | None = None,
    costs: Costs | None = None,
    doubts: Doubts | None = None,
) -> None:
    """Prints AUROC and FPR95 in percent, detectors by sets with group means; the best are bold and starred.

    A table wider than the console is split by group, and a group that is still too wide is split further. Long names
    are wrapped, never truncated.

    Args:
        metrics: result of ``summarise``.
        accuracy: accuracy on the ID images in percent.
        console: console to print on, standard output by default; its width sets the layout.
        costs: extra forwards per image of each detector and command; shown as a column where any is not 0.
        doubts: detector -> what is doubtful about its row; counted in the table's first column, listed below it.
    """
    console = console or Console()
    detectors = list(metrics["detector"].drop_duplicates())
    width = max(len("detector"), min(max(map(len, detectors)), _NAME))
    room = console.width - width
    fit = max(1, room // (_CELL + _GAP))
    groups = {str(name): _columns(rows) for name, rows in metrics.groupby("group", sort=False)}
    if any(any(cost.values()) for cost in (costs or {}).values()):
        groups[str(metrics["group"].iloc[-1])].append(_cost_column(costs or {}))
    first = [_doubt_column(doubts)] if doubts and any(doubts.values()) else []
    all_columns = [*first, *(column for columns in groups.values() for column in columns)]
    fits = sum(column.width + _GAP for column in all_columns) <= room
    tables = (
        {", ".join(groups): all_columns} if fits else {name: [*first, *columns] for name, columns in groups.items()}
    )
    for name, columns in tables.items():
        parts = 1 if fits else math.ceil(len(columns) / fit)
        size = math.ceil(len(columns) / parts)
        for start in range(0, len(columns), size):
            console.print(_table(name, detectors, columns[start : start + size], width))
    console.print(Text(caption(metrics, accuracy)))
    print_doubts(doubts or {}, console)


def caption(metrics: pd.DataFrame, accuracy: float | None) -> str:
    """Describes the numbers: counts of images, accuracy and the definition of FPR95."""
    sets = without_csid(metrics[metrics["dataset"] != MEAN]).drop_duplicates(["group", "dataset"])
    counts = ", ".join(f"{row.dataset} {row.n_ood}" for row in sets.itertuples())
    shifted = metrics.attrs.get("shifted", {})
    shifted_sets = ", ".join(f"{name} {n} (accuracy {_percent(share)})" for name, (n, share) in shifted.items())
    full = f"Full spectrum ({FULL_SPECTRUM}…) counts these images as ID too: {shifted_sets}.\n" if shifted else ""
    return (
        f"In-distribution (ID): {int(metrics['n_id'].iloc[0])} images, accuracy {_percent(accuracy)}. "
        f"Out-of-distribution (OOD): {counts} images.\n{full}"
        f"Cells: AUROC / FPR95 in percent; {_MARK} = best of the column. FPR95: ID is the positive class, the share of "
        "OOD images that score at or above the threshold that keeps 95 % of the ID images."
    )


def _percent(accuracy: float | None) -> str:
    return "unknown (no labels)" if accuracy is None else f"{accuracy:.1f} %"


def _columns(rows: pd.DataFrame) -> list[_Column]:
    """Builds the columns of one group: its sets, then their mean if there are several."""
    datasets = list(rows["dataset"].drop_duplicates())
    sets = [name for name in datasets if name != MEAN]
    group = rows["group"].iloc[0]
    shown = [*sets, MEAN] if len(sets) > 1 else sets
    return [
        _Column(f"{name.removeprefix(FULL_SPECTRUM)}\n({group})", _cells(rows[rows["dataset"] == name]))
        for name in shown
    ]


def _cost_column(costs: Costs) -> _Column:
    expensive = {name: cost for name, cost in costs.items() if any(cost.values())}
    cells = {name: Text("\n".join(f"{n} {job}" for job, n in cost.items() if n)) for name, cost in expensive.items()}
    return _Column("extra\npasses", cells, width=6)


def _doubt_column(doubts: Doubts) -> _Column:
    cells = {name: Text(f"{len(said)} !", style="yellow") for name, said in doubts.items() if said}
    return _Column("doubts", {name: cells.get(name, Text("")) for name in doubts}, width=6)


def _cells(column: pd.DataFrame) -> dict[str, Text]:
    rounded = column.round(1)
    auroc, fpr95 = (zip(rounded[m], is_best(rounded[m].to_numpy(), m), strict=True) for m in ("auroc", "fpr95"))
    return {
        detector: Text.assemble(_number(*a), "/", _number(*f))
        for detector, a, f in zip(column["detector"], auroc, fpr95, strict=True)
    }


def _number(value: float, best: bool) -> tuple[str, str]:
    return (f"{value:5.1f}{_MARK}", "bold") if best else (f"{value:5.1f} ", "")


def _table(title: str, detectors: Sequence[str], columns: Sequence[_Column], width: int) -> Table:
    table = Table(
        title=Text(f"\nAUROC / FPR95: {title}", style="italic"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.title_justify = "left"
    table.add_column("detector", width=width, overflow="fold")
    for column in columns:
        table.add_column(Text(column.title), width=column.width, overflow="fold")
    for detector in detectors:
        table.add_row(Text(detector), *(column.cells.get(detector, Text("-")) for column in columns))
    return table
