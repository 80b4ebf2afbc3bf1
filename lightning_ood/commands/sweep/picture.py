"""Draws AUROC over the parameters of a sweep: lines for few parameters, a heat map for two long ones, else points."""

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
from lightning_ood.report.drawing import COLOURS, DPI, logarithmic, new_figure, plain_text
from lightning_ood.report.table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX"
_TITLES = {"auroc": "AUROC, %", "fpr95": "FPR95, %"}
_LOG_RATIO = 50  # largest / smallest number from which the axis is logarithmic
_MAX_NAMES = 12  # names that fit below an axis
_LONG_NAME = 20  # characters from which names are written beside the vertical axis
_MIN_GAP = 0.06  # fraction of the axis below which neighbouring labels overlap


def draw(table: pd.DataFrame, parameters: list[str], path: Path, lines: bool) -> None:
    """Draws a PNG.

    Args:
        table: a row per point, detector and set; parameters as text.
        parameters: columns that vary.
        path: the file.
        lines: True if the points are a grid.
    """
    with plain_text():
        write_whole(path, partial(_figure(table, parameters, lines).savefig, dpi=DPI, format="png"))


def _figure(table: pd.DataFrame, parameters: list[str], lines: bool) -> Figure:
    varied = [name for name in parameters if (table[name] != "any").any()]
    swept = table[(table[varied] != "any").all(axis=1)]
    fixed = table.drop(swept.index)
    swept, fixed = (rows[rows["dataset"] != MEAN] for rows in (swept, fixed))
    if swept["detector"].nunique() > 1:
        varied.append("detector")
    order = sorted(varied, key=lambda name: (-swept[name].nunique(), not _numeric(swept[name])))
    counts = [swept[name].nunique() for name in order]
    if not order or not lines or math.prod(counts[2:]) > 6:
        return _points(swept, varied or ["detector"])
    if len(order) == 1:
        return _one(swept, fixed, order[0])
    if len(order) == 2 and (counts[1] > len(COLOURS) or (counts[0] > _MAX_NAMES and not _numeric(swept[order[0]]))):
        return _heat_maps(swept, order)
    return _lines(swept, fixed, order)


def _one(swept: pd.DataFrame, fixed: pd.DataFrame, x: str) -> Figure:
    """Draws one parameter: AUROC on the left, FPR95 on the right, a line per set."""
    vertical = swept[x].str.len().max() > _LONG_NAME
    figure = new_figure(9, 1.6 + 0.26 * swept[x].nunique() if vertical else 3.8)
    panels = figure.subplots(1, 2, sharey=vertical)
    for axes, (measure, title) in zip(panels, _TITLES.items(), strict=True):
        for style, (name, rows) in enumerate(swept.groupby("dataset", sort=False)):
            if vertical:
                axes.plot(rows[measure], rows[x], _MARKERS[style % 7], color=COLOURS[style % 7], ms=5, label=name)
                continue
            _line(axes, rows, swept[x], measure, style, str(name))
            for value in fixed.loc[fixed["dataset"] == name, measure]:
                axes.axhline(value, color=COLOURS[style % 7], lw=0.9, ls=":")
        if vertical:
            axes.set_xlabel(title)
            axes.grid(axis="y", color="0.9", lw=0.6)
        else:
            _label(axes, swept[x], x, title)
    if vertical:
        panels[0].invert_yaxis()
    if len(fixed):
        panels[0].set_title(f"dotted: {', '.join(fixed['detector'].unique())}", fontsize=9, loc="left")
    _legend(figure, panels[0], swept["dataset"].nunique())
    return figure


def _lines(swept: pd.DataFrame, fixed: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Draws the first parameter along the axis, the second as colours, the others as columns of panels."""
    x, colour, *others = order
    sets = swept["dataset"].unique()
    facets = list(itertools.product(*(swept[name].unique() for name in others)))
    rows, columns = (len(sets), len(facets)) if others else (1, len(sets))
    figure = new_figure(3.3 * columns + 0.6, 2.9 * rows + 0.7)
    panels = figure.subplots(rows, columns, sharey="row", squeeze=False)
    for axes, (name, facet) in zip(panels.flat, itertools.product(sets, facets), strict=True):
        here = swept[(swept[["dataset", *others]] == [name, *facet]).all(axis=1)]
        for style, value in enumerate(swept[colour].unique()):
            _line(axes, here[here[colour] == value], swept[x], "auroc", style, str(value))
        for _, row in fixed[fixed["dataset"] == name].iterrows():
            axes.axhline(row["auroc"], color="0.5", lw=0.9, ls=":", label=row["detector"])
        title = [name, *(f"{key}: {value}" for key, value in zip(others, facet, strict=True))]
        axes.set_title("\n".join(title), fontsize=9)
        _label(axes, swept[x], x, _TITLES["auroc"] if axes in panels[:, 0] else "")
    _legend(figure, panels[0, 0], 2 + columns, title=colour)
    return figure


def _legend(figure: Figure, axes: Axes, columns: int, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), columns)
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False)


def _heat_maps(swept: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Draws AUROC over two parameters with many values, a heat map per set."""
    y, x = order
    sets, down, across = (swept[name].unique() for name in ("dataset", y, x))
    figure = new_figure(len(sets) * (0.52 * len(across) + 0.5) + 1.8, 0.27 * len(down) + 1.4)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)
    for axes, name in zip(panels[0], sets, strict=True):
        cells = swept[swept["dataset"] == name].pivot_table(index=y, columns=x, values="auroc").loc[down, across]
        image = axes.imshow(cells.to_numpy(), cmap="cividis", vmin=50, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(cells.to_numpy()):
            text = "white" if value < 75 else "black"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=text)
        axes.set_xticks(range(len(across)), across, rotation=45 if max(map(len, across)) > 4 else 0, fontsize=8)
        axes.set_yticks(range(len(down)), down, fontsize=8)
        axes.set_xlabel(x)
        axes.set_title(name, fontsize=10)
    panels[0, 0].set_ylabel(y)
    figure.colorbar(image, ax=panels[0, -1], label=_TITLES["auroc"], extend="min")
    return figure


def _points(swept: pd.DataFrame, parameters: Sequence[str]) -> Figure:
    """Draws every point over each of many parameters, a colour per set; bars are medians of equal values."""
    sets = swept["dataset"].unique()
    figure = new_figure(3.2 * len(parameters) + 0.5, 2.1 * len(sets) + 0.9)
    panels = figure.subplots(len(sets), len(parameters), sharey="row", squeeze=False)
    for (i, name), (j, x) in itertools.product(enumerate(sets), enumerate(parameters)):
        axes, here = panels[i, j], swept[swept["dataset"] == name]
        at = here[x].map(_places(swept[x])[1])
        axes.plot(at, here["auroc"], "o", color=COLOURS[i % 7], ms=3, alpha=0.45, mew=0)
        for position, values in here["auroc"].groupby(at):
            if len(values) > 1:
                axes.plot(position, values.median(), "_", color="black", ms=12, mew=1.6)
        _label(axes, swept[x], x if i == len(sets) - 1 else "", f"{name}\nAUROC, %" if j == 0 else "")
    return figure


def _line(axes: Axes, rows: pd.DataFrame, x: pd.Series, measure: str, style: int, name: str) -> None:
    """Draws a measure over a parameter; ``x`` holds the parameter at all points."""
    at = rows[x.name].map(_places(x)[1]).to_numpy()
    order = at.argsort(kind="stable")
    width = 1.3 if _numeric(x) else 0.5  # between names nothing is interpolated: the line guides the eye
    marker, colour, values = _MARKERS[style % 7], COLOURS[style % 7], rows[measure].to_numpy()[order]
    axes.plot(at[order], values, marker=marker, color=colour, ms=4, lw=width, label=name)


def _label(axes: Axes, values: pd.Series, x: str, y: str) -> None:
    scale, places = _places(values)
    if scale == "log":
        logarithmic(axes)
    crowded = sum(map(len, places)) > 26 if scale else max(map(len, places)) * len(places) > 24
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    if not scale or len(places) <= _MAX_NAMES:
        axes.set_xticks(list(places.values()), list(places), fontsize=8, **slant)
        axes.minorticks_off()
    if not scale:
        axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", lw=0.6)


def _places(values: pd.Series) -> tuple[str | None, dict[str, float]]:
    """Returns the scale of an axis and the place of each value.

    Names, and numbers whose labels would overlap, are spread evenly and have no scale.
    """
    names = values.unique()
    even = {name: float(i) for i, name in enumerate(names)}
    if not _numeric(values):
        return None, even
    places = pd.to_numeric(names).astype(float)
    log = places.min() > 0 and places.max() / places.min() >= _LOG_RATIO
    at = np.sort(np.log(places) if log else places)
    if 1 < len(at) <= _MAX_NAMES and np.diff(at).min() < _MIN_GAP * (at[-1] - at[0]):
        return None, even
    return "log" if log else "linear", dict(zip(names, places, strict=True))


def _numeric(values: pd.Series) -> bool:
    return bool(pd.to_numeric(values, errors="coerce").notna().all())
