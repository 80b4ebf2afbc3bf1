"""Tables for papers: FPR95 (lower is better) and AUROC (higher is better), the best bold, ties with it marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from lightning_ood.metrics.rates import falls
from lightning_ood.ops.files import write_text
from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import MEAN, is_best

PRINTED = {"fpr95": ("FPR95", "↓"), "auroc": ("AUROC", "↑")}
_SIUNITX = [
    "% \\usepackage{siunitx}",
    "% \\sisetup{separate-uncertainty, detect-weight, mode=text, table-align-text-after=false}",
]
_TEX = {
    "\\": r"\textbackslash{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "†": r"$^\dagger$",
}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "~": r"\textasciitilde{}"}


Intervals = Literal["none", "pm", "brackets"]


@dataclass(frozen=True)
class Cell:
    """A text that is bold or not; ``tied``: not told apart from the best by the best's interval."""

    text: str
    bold: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Grid:
    """A table that can be formatted as Markdown or LaTeX.

    Attributes:
        labels: headings of the first columns, which contain names.
        columns: heading and subheadings of each group of columns.
        rows: names, then the cells of each group of columns.
        caption: describes the table, below it in Markdown and above it in LaTeX; without one, LaTeX is the bare
            ``tabular``.
        label: LaTeX label.
    """

    labels: Sequence[str]
    columns: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[Sequence[str], Sequence[Sequence[Cell]]]]
    caption: str = ""
    label: str = ""

    def markdown(self) -> str:
        """Formats the table as Markdown, with the values of a group in one cell: ``12.3 / 97.0``."""
        heads = [
            f"{top} ({' / '.join(below)})" if top and len(below) > 1 else top or below[0] for top, below in self.columns
        ]
        rows = [[*names, *(" / ".join(map(_marked, group)) for group in groups)] for names, groups in self.rows]
        text = markdown_table([*self.labels, *heads], rows, len(self.labels), pad=True) + "\n"
        return f"{text}\n{self.caption}\n" if self.caption else text

    def latex(self, siunitx: bool = False) -> str:
        r"""Formats the table with booktabs rules; with a caption as a ``table``, else as the ``tabular`` alone.

        Args:
            siunitx: aligns numbers in ``S`` columns; their cells are a number, or ``number +- half width``.
        """
        counts = [len(below) for _, below in self.columns]
        starts = [len(self.labels) + 1 + sum(counts[:i]) for i in range(len(counts))]
        if max(counts) > 1:
            top = [
                f"\\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for (name, _), n in zip(self.columns, counts, strict=True)
            ]
            rules = [f"\\cmidrule(lr){{{at}-{at + n - 1}}}" for at, n in zip(starts, counts, strict=True)]
            heads = [" & ".join([*[""] * len(self.labels), *top]) + r" \\", " ".join(rules)]
            last = [text for _, below in self.columns for text in below]
        else:
            heads, last = [], [name for name, _ in self.columns]
        below = [f"{{{_tex(text)}}}" if siunitx else _tex(text) for text in last]  # braces: no number
        heads.append(" & ".join([*map(_tex, self.labels), *below]) + r" \\")
        body = []
        for labels, groups in self.rows:
            cells = [_latex_cell(cell, siunitx) for group in groups for cell in group]
            body.append(" & ".join([*map(_tex, labels), *cells]) + r" \\")
        uncertain = any("±" in cell.text for _, groups in self.rows for group in groups for cell in group)
        number = f"S[table-format=3.1{'(2.1)' if uncertain else ''}]" if siunitx else "r"
        kinds = "l" * len(self.labels) + number * sum(counts)
        rules_and_rows = ["\\toprule", *heads, "\\midrule", *body, "\\bottomrule"]
        tabular = [f"\\begin{{tabular}}{{{kinds}}}", *rules_and_rows, "\\end{tabular}"]
        if self.caption:
            above = ["\\begin{table}", "\\centering", f"\\caption{{{_tex(self.caption)}}}"]
            tabular = [*above, *([f"\\label{{{self.label}}}"] if self.label else []), *tabular, "\\end{table}"]
        return "\n".join([*(_SIUNITX if siunitx else []), "% \\usepackage{booktabs}", *tabular, ""])


def write_grid(grid: Grid, folder: Path, name: str, siunitx: bool = False) -> None:
    """Writes ``<name>.md`` and ``<name>.tex``."""
    write_text(folder / f"{name}.md", grid.markdown())
    write_text(folder / f"{name}.tex", grid.latex(siunitx))


def paper_table(values: pd.DataFrame, intervals: Intervals = "none", by_network: bool = False) -> Grid:
    """Builds the table of detectors by sets and group means; equal printed values are all bold.

    Args:
        values: result of ``measure``: a row per ``run``, ``detector``, ``dataset`` and ``group``.
        intervals: how 95 % intervals (standard deviations of several repetitions) are written: ``pm`` for the value ±
            the longer side, ``brackets`` for both ends, ``none``.
        by_network: rows are detectors, and each run has a column per group mean: networks side by side.
    """
    sizes = values.groupby("group", sort=False)["dataset"].nunique()
    several = values["run"].nunique() > 1
    # The mean of one set equals that set.
    wanted = (
        (values["dataset"] == MEAN) if by_network else (values["dataset"] != MEAN) | (values["group"].map(sizes) > 2)
    )
    shown = values[wanted].round(1)
    columns = list(shown[["group", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    columns.sort(key=lambda key: list(sizes.index).index(key[0]))
    shown = _marks(shown, ["run", "group", "dataset"] if by_network else ["group", "dataset"])
    table = shown.set_index(["run", "detector", "group", "dataset"]).sort_index()
    names = [f"{group} mean" if dataset == MEAN and sizes[group] > 2 else dataset for group, dataset in columns]
    names = [group if name == MEAN else name for name, (group, _) in zip(names, columns, strict=True)]
    below = [" ".join(text) for text in PRINTED.values()]

    def cells(run: str, detector: str) -> list[list[Cell]]:
        keys = [(run, detector, *column) for column in columns]
        found = [table.loc[key] if key in table.index else None for key in keys]
        return [[Cell("-") if row is None else _cell(row, metric, intervals) for metric in PRINTED] for row in found]

    if by_network:
        runs = list(shown["run"].drop_duplicates())
        rows = [
            ([name], [group for run in runs for group in cells(run, name)])
            for name in shown["detector"].drop_duplicates()
        ]
        return Grid(["detector"], [(f"{run}: {name}", below) for run in runs for name in names], rows)
    entries = shown[["run", "detector"]].drop_duplicates().itertuples(index=False, name=None)
    rows = [([run, name] if several else [name], cells(run, name)) for run, name in entries]
    return Grid(["run", "detector"] if several else ["detector"], [(name, below) for name in names], rows)


def _marks(shown: pd.DataFrame, column: Sequence[str]) -> pd.DataFrame:
    """Adds ``<metric>_best`` and ``<metric>_tied``: in the 95 % interval of the best of the column."""
    groups = shown.groupby(list(column))
    for metric in PRINTED:
        best = groups[metric].transform(partial(is_best, metric=metric))
        end = shown[f"{metric}_high" if falls(metric) else f"{metric}_low"].where(best)
        limit = end.groupby([shown[name] for name in column]).transform("max" if falls(metric) else "min")
        tied = shown[metric] <= limit if falls(metric) else shown[metric] >= limit
        shown = shown.assign(**{f"{metric}_best": best, f"{metric}_tied": tied & ~best})
    return shown


def _cell(row: pd.Series, metric: str, intervals: Intervals) -> Cell:
    value, deviation = row[metric], row[f"{metric}_std"]
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    text = f"{value:.1f}"
    if not pd.isna(deviation):
        text += f" ± {deviation:.1f}"
    elif intervals == "pm":
        text += f" ± {max(high - value, value - low):.1f}"
    elif intervals == "brackets":
        text += f" [{low:.1f}, {high:.1f}]"
    return Cell(text, bool(row[f"{metric}_best"]), intervals != "none" and bool(row[f"{metric}_tied"]))


def describe(values: pd.DataFrame, intervals: Intervals, accuracy: Mapping[str, float | None], costs: str = "") -> str:
    """Writes the caption of a table for a paper.

    Args:
        values: result of ``measure``.
        intervals: how intervals are written.
        accuracy: run -> accuracy on the ID images in percent.
        costs: sentence about extra passes.
    """
    sets = values[values["dataset"] != MEAN].drop_duplicates(["group", "dataset"])
    counts = ", ".join(f"{row.dataset} ({row.group}) {row.n_ood}" for row in sets.itertuples())
    known = {run: f"{share:.1f} %" for run, share in accuracy.items() if share is not None}
    shares = ", ".join(f"{run} {share}" if len(accuracy) > 1 else share for run, share in known.items())
    several = values["repetitions"].max() > 1
    marks = {
        "none": "",
        "pm": " ±: the longer side of the 95 % interval; †: inside the interval of the best.",
        "brackets": " Brackets: 95 % interval; †: inside the interval of the best.",
    }[intervals]
    spread = " ±: standard deviation over repetitions." if several else ""
    return (
        "FPR95 (ID positive, lower is better) and AUROC (higher is better) in percent, the best bold."
        f"{spread or marks} "
        f"{int(values['n_id'].iloc[0])} ID images; OOD images: {counts}."
        + (f" Accuracy on ID: {shares}." if shares else "")
        + (f" {costs}" if costs else "")
    )


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _marked(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.bold else f"{cell.text}†" if cell.tied else cell.text


def _latex_cell(cell: Cell, siunitx: bool) -> str:
    if not siunitx:
        text = _tex(cell.text)
        return f"\\textbf{{{text}}}" if cell.bold else f"{text}$^\\dagger$" if cell.tied else text
    if cell.text == "-":
        return "{-}"
    text = cell.text.replace("±", "+-")
    return f"\\bfseries {text}" if cell.bold else f"{text} {{$^\\dagger$}}" if cell.tied else text
