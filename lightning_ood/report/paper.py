"""Tables for papers: FPR95 (lower is better) and AUROC (higher is better) per set, the best bold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import MEAN, is_best

PRINTED = {"fpr95": ("FPR95", "↓"), "auroc": ("AUROC", "↑")}
_TEX = {"\\": r"\textbackslash{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "Δ": r"$\Delta$"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "~": r"\textasciitilde{}"}


@dataclass(frozen=True)
class Cell:
    """A text that is bold or not."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table that can be formatted as Markdown or LaTeX.

    Attributes:
        labels: headings of the first columns, which contain names.
        columns: heading and subheadings of each group of columns.
        rows: names, then the cells of each group of columns.
    """

    labels: Sequence[str]
    columns: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[Sequence[str], Sequence[Sequence[Cell]]]]

    def markdown(self) -> str:
        """Formats the table as Markdown, with the values of a group in one cell: ``12.3 / 97.0``."""
        heads = [
            f"{top} ({' / '.join(below)})" if top and len(below) > 1 else top or below[0] for top, below in self.columns
        ]
        rows = [
            [*names, *(" / ".join(f"**{c.text}**" if c.bold else c.text for c in group) for group in groups)]
            for names, groups in self.rows
        ]
        return markdown_table([*self.labels, *heads], rows, len(self.labels), pad=True) + "\n"

    def latex(self) -> str:
        r"""Formats the table as a booktabs ``tabular``."""
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
        heads.append(" & ".join(map(_tex, [*self.labels, *last])) + r" \\")
        body = []
        for labels, groups in self.rows:
            cells = [_bold(cell) for group in groups for cell in group]
            body.append(" & ".join([*map(_tex, labels), *cells]) + r" \\")
        kinds = "l" * len(self.labels) + "r" * sum(counts)
        return "\n".join(
            [
                "% \\usepackage{booktabs}",
                f"\\begin{{tabular}}{{{kinds}}}",
                "\\toprule",
                *heads,
                "\\midrule",
                *body,
                "\\bottomrule",
                "\\end{tabular}",
                "",
            ]
        )


FORMATS: dict[str, Callable[[Grid], str]] = {"md": Grid.markdown, "tex": Grid.latex}


def paper_table(values: pd.DataFrame) -> Grid:
    """Builds the table of detectors by sets and group means; equal printed values are all bold.

    Args:
        values: row per ``run``, ``detector``, ``dataset`` and ``group``, with ``fpr95`` and ``auroc`` in percent and
            ``fpr95_std`` and ``auroc_std``, NaN where there is one repetition.
    """
    sizes = values.groupby("group", sort=False)["dataset"].nunique()
    shown = values[
        (values["dataset"] != MEAN) | (values["group"].map(sizes) > 2)
    ]  # the mean of one set equals that set
    columns = list(shown[["group", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    columns.sort(key=lambda key: list(sizes.index).index(key[0]))
    shown = shown.round(1)
    per_set = shown.groupby(["group", "dataset"])
    best = {f"{name}_best": per_set[name].transform(partial(is_best, metric=name)) for name in PRINTED}
    shown = shown.assign(**best)
    table = shown.set_index(["run", "detector", "group", "dataset"]).sort_index()
    several = values["run"].nunique() > 1
    rows = []
    for run, detector in shown[["run", "detector"]].drop_duplicates().itertuples(index=False, name=None):
        cells = []
        for group, dataset in columns:
            if (run, detector, group, dataset) not in table.index:
                cells.append([Cell("-")] * len(PRINTED))
                continue
            row = table.loc[(run, detector, group, dataset)]
            cells.append([_cell(row, metric) for metric in PRINTED])
        rows.append(([run, detector] if several else [detector], cells))
    names = [f"{group} mean" if dataset == MEAN else dataset for group, dataset in columns]
    below = [" ".join(text) for text in PRINTED.values()]
    return Grid(["run", "detector"] if several else ["detector"], [(name, below) for name in names], rows)


def _cell(row: pd.Series, metric: str) -> Cell:
    deviation = row[f"{metric}_std"]
    text = f"{row[metric]:.1f}" + ("" if pd.isna(deviation) else f" ± {deviation:.1f}")
    return Cell(text, bool(row[f"{metric}_best"]))


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _bold(cell: Cell) -> str:
    return f"\\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
