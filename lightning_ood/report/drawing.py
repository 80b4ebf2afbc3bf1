"""Colours, figures, panels and legends shared by all plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.report.table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One meaning for each colour, here and on the page: a set, ID images, good (green), wrong (red), a plain share (grey).
# The line style tells sets apart as well, for colour-blind readers.
COLOURS = ("#0072B2", "#B4479A", "#7A5230", "#2FA4D6", "#6A3D9A", "#222222")
ID_COLOUR = "#8C8C8C"
LINE, BAND = "#333333", "#BBBBBB"  # curves that belong to no set
GOOD, ERRORS, SHARES = "Greens", "Oranges", "Greys"  # heat maps: more colour is better, more is worse, neither
DPI = 110
_STYLES = ("-", "--", ":", "-.")
_PANEL = (3.1, 2.4)  # inches


def styles_of(metrics: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """Returns the colour and line style of each OOD set, the same in every plot."""
    sets = metrics["dataset"][metrics["dataset"] != MEAN].drop_duplicates()
    n = len(COLOURS)
    return {str(s): {"color": COLOURS[i % n], "linestyle": _STYLES[i % 4]} for i, s in enumerate(sets)}


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty figure; width and height in inches."""
    # Avoids pyplot and its global state: there is no window and nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels_of(detectors: list[str], label: str) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """Creates a figure with one titled panel per detector; returns it and the (detector, panel) pairs."""
    columns = min(len(detectors), 5)
    rows = math.ceil(len(detectors) / columns)
    figure = new_figure(max(columns, 2) * _PANEL[0], rows * _PANEL[1] + 0.9)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    figure.supxlabel(label, fontsize=9)
    for axes in panels[len(detectors) :]:
        axes.remove()
    used = list(zip(detectors, panels, strict=False))
    for detector, axes in used:
        axes.set_title(detector, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
    return figure, iter(used)


def legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]], with_id: bool) -> None:
    """Adds one legend above all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=ID_COLOUR, alpha=0.6, label="ID")] if with_id else []
    handles += [Line2D([], [], label=name, **style) for name, style in styles.items()]
    columns = max(2, int(figure.get_figwidth() / 2.3))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)


def write_cells(
    axes: Axes,
    values: NDArray[np.float64],
    dark: NDArray[np.bool_],
    bold: NDArray[np.bool_],
    digits: int = 1,
    below: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> None:
    """Writes the values of a heat map into its cells.

    Args:
        axes: axes of the heat map.
        values: ``[R, C]``; cells that are not finite stay empty.
        dark: ``[R, C]`` mask of cells with white text.
        bold: ``[R, C]`` mask of cells with bold text.
        digits: digits after the decimal point.
        below: lower and upper interval ends, ``[R, C]`` each, written small below the values.
    """
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        style: dict[str, Any] = {"color": "white" if dark[row, column] else "black", "ha": "center"}
        weight = "bold" if bold[row, column] else "normal"
        height = row - 0.16 if below else row
        axes.text(column, height, f"{value:.{digits}f}", va="center", fontsize=7.5, fontweight=weight, **style)
        if below:
            ends = "\N{EN DASH}".join(f"{end[row, column]:.1f}" for end in below)
            axes.text(column, row + 0.24, ends, va="center", fontsize=5.8, **style)
