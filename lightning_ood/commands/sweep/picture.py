"""The picture of a sweep: lines where one or a few parameters vary, a heat map where two vary much, else clouds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lightning_ood.ops.files import write_whole
from lightning_ood.report.table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers; markers differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_WIDE = 50  # a ratio of numbers from which the axis is logarithmic
_SLANT: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
_NAMES = 12  # more of them do not fit under a line
_LONG = 20  # letters of a name from which it stands on the upright axis
_GAP = 0.06  # of the axis: labels that are closer overlap


def draw(table: pd.DataFrame, parameters: list[str], path: Path, lines: bool) -> None:
    """Draws AUROC over the parameters.

    Args:
        table: a row per point, detector and set; parameters as text.
        parameters: columns that vary.
        path: of the PNG.
        lines: whether the points are a grid.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    constant = [name for name in parameters if (table[name] == "any").all()]
    axes_of = [name for name in parameters if name not in constant]
    swept = table[~(table[axes_of] == "any").any(axis=1)] if axes_of else table
    fixed = table.drop(swept.index)
    if swept["detector"].nunique() > 1:
        axes_of = [*axes_of, "detector"]
    order = sorted(axes_of, key=lambda name: (-swept[name].nunique(), not _numeric(swept[name])))
    facets = math.prod(swept[name].nunique() for name in order[2:])
    if not order or not lines or facets > 6:
        figure = _clouds(swept, axes_of or ["detector"])
    elif len(order) == 1:
        figure = _one(swept, fixed, order[0])
    elif len(order) == 2 and (swept[order[1]].nunique() > len(_COLOURS) or _crowd(swept[order[0]])):
        figure = _heat(swept, order)
    else:
        figure = _many(swept, fixed, order)
    write_whole(path, partial(figure.savefig, dpi=110, format="png"))
    plt.close(figure)


def _one(swept: pd.DataFrame, fixed: pd.DataFrame, x: str) -> Any:
    """One parameter: a line per set, AUROC on the left, FPR95 on the right."""
    import matplotlib.pyplot as plt

    upright = swept[x].str.len().max() > _LONG
    size = (9, 1.6 + 0.26 * swept[x].nunique()) if upright else (9, 3.8)
    figure, panels = plt.subplots(1, 2, figsize=size, layout="constrained", sharey=upright)
    names = list(swept.loc[swept["dataset"] != MEAN, "dataset"].unique())
    for axes, measure in zip(panels, ("auroc", "fpr95"), strict=True):
        for i, name in enumerate(names):
            if upright:
                rows = swept[swept["dataset"] == name]
                axes.plot(rows[measure], rows[x], _MARKERS[i], color=_COLOURS[i], ms=5, label=name)
                continue
            _line(axes, swept[swept["dataset"] == name], x, measure, i, name)
            for _, row in fixed[fixed["dataset"] == name].iterrows():
                axes.axhline(row[measure], color=_COLOURS[i % 7], lw=0.9, ls=":")
        title = {"auroc": "AUROC, %", "fpr95": "FPR95, %"}[measure]
        if upright:
            axes.set_xlabel(title)
            axes.grid(axis="y", color="0.9", lw=0.6)
        else:
            _label(axes, swept, x, title)
    if upright:
        panels[0].invert_yaxis()
    others = ", ".join(fixed["detector"].unique())
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    if others:
        panels[0].set_title(f"dotted: {others}", fontsize=9, loc="left")
    return figure


def _many(swept: pd.DataFrame, fixed: pd.DataFrame, order: Sequence[str]) -> Any:
    """Along the first parameter; a colour for each value of the second, a column for each of the others."""
    import matplotlib.pyplot as plt

    x, colour, *others = order
    names = list(swept.loc[swept["dataset"] != MEAN, "dataset"].unique())
    facets = list(itertools.product(*(swept[name].unique() for name in others)))
    rows, columns = (1, len(names)) if not others else (len(names), len(facets))
    size = (3.3 * columns + 0.6, 2.9 * rows + 0.7)
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", sharey="row", squeeze=False)
    for (i, name), (j, facet) in itertools.product(enumerate(names), enumerate(facets)):
        axes = panels[i, j] if others else panels[0, i]
        here = swept[swept["dataset"] == name]
        for key, value in zip(others, facet, strict=True):
            here = here[here[key] == value]
        for k, value in enumerate(swept[colour].unique()):
            _line(axes, here[here[colour] == value], x, "auroc", k, str(value), swept)
        for _, row in fixed[fixed["dataset"] == name].iterrows():
            axes.axhline(row["auroc"], color="0.5", lw=0.9, ls=":", label=row["detector"])
        title = "\n".join(f"{key}: {value}" for key, value in zip(others, facet, strict=True))
        axes.set_title(f"{name}\n{title}" if others else name, fontsize=9)
        _label(axes, swept, x, "AUROC, %" if axes in panels[:, 0] else "")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title=colour, loc="outside lower center", ncols=min(len(labels), 2 + columns), frameon=False
    )
    return figure


def _heat(swept: pd.DataFrame, order: Sequence[str]) -> Any:
    """Two parameters with many values: a heat map of AUROC per set."""
    import matplotlib.pyplot as plt

    y, x = order
    names = list(swept.loc[swept["dataset"] != MEAN, "dataset"].unique())
    down, across = swept[y].unique(), swept[x].unique()
    size = (len(names) * (0.52 * len(across) + 0.5) + 1.8, 0.27 * len(down) + 1.4)
    figure, panels = plt.subplots(1, len(names), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        cells = swept[swept["dataset"] == name].pivot_table(index=y, columns=x, values="auroc").loc[down, across]
        image = axes.imshow(cells.to_numpy(), cmap="cividis", vmin=50, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(cells.to_numpy()):
            dark = value < 75
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_xticks(range(len(across)), across, rotation=45 if max(map(len, across)) > 4 else 0, fontsize=8)
        axes.set_yticks(range(len(down)), down, fontsize=8)
        axes.set_xlabel(x)
        axes.set_title(name, fontsize=10)
    panels[0, 0].set_ylabel(y)
    figure.colorbar(image, ax=panels[0, -1], label="AUROC, %", extend="min")
    return figure


def _clouds(swept: pd.DataFrame, parameters: Sequence[str]) -> Any:
    """Many parameters: every point over each of them, a colour per set, the median of equal values as a bar."""
    import matplotlib.pyplot as plt

    names = list(swept.loc[swept["dataset"] != MEAN, "dataset"].unique())
    size = (3.2 * len(parameters) + 0.5, 2.1 * len(names) + 0.9)
    figure, panels = plt.subplots(
        len(names), len(parameters), figsize=size, layout="constrained", sharey="row", squeeze=False
    )
    for (i, name), (j, x) in itertools.product(enumerate(names), enumerate(parameters)):
        axes, here = panels[i, j], swept[swept["dataset"] == name]
        at = _positions(here[x], swept[x])
        axes.plot(at, here["auroc"], "o", color=_COLOURS[i % 7], ms=3, alpha=0.45, mew=0)
        for position, values in here["auroc"].groupby(np.asarray(at)):
            if len(values) > 1:
                axes.plot(position, values.median(), "_", color="black", ms=12, mew=1.6)
        _label(axes, swept, x if i == len(names) - 1 else "", f"{name}\nAUROC, %" if j == 0 else "", of=x)
    return figure


def _line(
    axes: Axes, rows: pd.DataFrame, x: str, measure: str, style: int, name: str, whole: pd.DataFrame | None = None
) -> None:
    at = np.asarray(_positions(rows[x], (rows if whole is None else whole)[x]), dtype=float)
    order = at.argsort(kind="stable")
    values = rows[measure].to_numpy()[order]
    colour = _COLOURS[style % 7]
    width = 1.3 if _numeric(rows[x]) else 0.5  # between names there is nothing: the line only leads the eye
    axes.plot(at[order], values, marker=_MARKERS[style % 7], color=colour, ms=4, lw=width, label=name)


def _label(axes: Axes, swept: pd.DataFrame, x: str, y: str, of: str | None = None) -> None:
    values = swept[of or x].unique()
    scale = _scale(swept[of or x])
    if scale:
        axes.set_xscale(scale)
        if len(values) <= 12:
            slant = _SLANT if sum(map(len, values)) > 26 else {}
            axes.set_xticks(pd.to_numeric(values), values, fontsize=8, **slant)
            axes.minorticks_off()
    else:
        slant = _SLANT if max(map(len, values)) * len(values) > 24 else {}
        axes.set_xticks(range(len(values)), values, fontsize=8, **slant)
        axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", lw=0.6)


def _scale(values: pd.Series) -> str | None:
    """Of the axis; None for names, and for numbers so close that labels would overlap: they are spread evenly."""
    if not _numeric(values):
        return None
    numbers = np.sort(pd.to_numeric(values).unique())
    log = numbers[0] > 0 and numbers[-1] / numbers[0] >= _WIDE
    at = np.log(numbers) if log else numbers
    crowded = 1 < len(numbers) <= 12 and np.diff(at).min() < _GAP * (at[-1] - at[0])
    return None if crowded else "log" if log else "linear"


def _crowd(names: pd.Series) -> bool:
    return not _numeric(names) and names.nunique() > _NAMES


def _numeric(values: pd.Series) -> bool:
    return bool(pd.to_numeric(values, errors="coerce").notna().all())


def _positions(values: pd.Series, whole: pd.Series) -> list[float]:
    """Numbers as they are; names, and numbers that lie close together, in the order of their appearance."""
    if _scale(whole):
        return pd.to_numeric(values).tolist()
    places = {name: float(i) for i, name in enumerate(whole.unique())}
    return [places[value] for value in values]
