"""Colours, figures, panels and legends shared by all plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lightning_ood.report.table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One meaning for each colour, here and on the page: a set, ID images, good (green), wrong (red), a plain share (grey).
# The line style tells sets apart as well, for colour-blind readers.
COLOURS = ("#0072B2", "#B4479A", "#7A5230", "#2FA4D6", "#6A3D9A", "#222222", "#8A8A1E")
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


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Creates an empty figure; width and height in inches."""
    # Avoids pyplot and its global state: there is no window and nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plain_text() -> AbstractContextManager[None]:
    """Draws ``$`` in names as it stands; matplotlib would read what lies between two of them as a formula."""
    from matplotlib import rc_context

    return rc_context({"text.parse_math": False})


def logarithmic(axes: Axes) -> None:
    """Makes the x-axis logarithmic, its powers written out: :func:`plain_text` draws no formula for them."""
    from matplotlib.ticker import LogFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=True))
    axes.xaxis.set_minor_formatter(NullFormatter())


def margins(figure: Figure, left: float, right: float, top: float, bottom: float, gap: float = 0.0) -> None:
    """Sets the margins around and the gap between axes in inches; quicker than a layout that measures every text."""
    width, height = figure.get_size_inches()
    sides = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    figure.subplots_adjust(**sides, wspace=2 * gap / max(width - left - right - gap, 1e-6))


def text_width(texts: Iterable[str], size: float = 8.0) -> float:
    """Estimates the width of the longest text in inches."""
    return max(map(len, texts), default=0) * size * 0.65 / 72


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


class Sheet:
    """Small panels of one kind on a single pair of axes, which draws ten times as fast as axes for each.

    Args:
        detectors: titles of the panels.
        label: what the axes of every panel show.
        styles: name -> style of its lines.
        with_id: whether the legend names ID images.
    """

    def __init__(
        self, detectors: list[str], label: str, styles: Mapping[str, Mapping[str, Any]], with_id: bool
    ) -> None:
        self.columns = min(len(detectors), 5)
        rows = math.ceil(len(detectors) / self.columns)
        width, height = max(self.columns, 2) * _PANEL[0], rows * _PANEL[1] + 0.9
        self.figure = new_figure(width, height, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))  # inches, down
        self.axes.axis("off")
        self.figure.text(0.5, 0.18 / height, label, ha="center", fontsize=9)
        legend(self.figure, styles, with_id)
        self._styles = styles
        self._lines: dict[str, list[NDArray[np.float64]]] = {name: [] for name in styles}
        for i, detector in enumerate(detectors):
            left, top = self._corner(i)
            self.axes.text(left + (_PANEL[0] - 0.5) / 2, top - 0.08, detector, fontsize=9, ha="center")

    def place(self, i: int, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Maps positions from 0 to 1, right and up, in panel ``i`` to points ``[N, 2]`` of the sheet."""
        left, top = self._corner(i)
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        return np.stack([left + x * (_PANEL[0] - 0.5), top + (1 - y) * (_PANEL[1] - 0.7)], axis=-1)

    def add(self, name: str, points: NDArray[np.float64]) -> None:
        """Adds a line in the style of a set."""
        self._lines[name].append(points)

    def ticks(self, i: int, x: Mapping[float, str], y: Mapping[float, str]) -> None:
        """Writes the labels of positions from 0 to 1 along both axes of a panel."""
        for position, text in x.items():
            left, top = self.place(i, position, -0.1)
            self.axes.text(left, top, text, fontsize=7, ha="center")
        for position, text in y.items():
            left, top = self.place(i, -0.02, position - 0.02)
            self.axes.text(left, top, text, fontsize=7, ha="right")

    def rules(self, lines: list[NDArray[np.float64]], **style: Any) -> None:
        """Draws lines that belong to no set."""
        from matplotlib.collections import LineCollection

        self.axes.add_collection(LineCollection(lines, **style), autolim=False)

    def draw(self) -> Figure:
        """Draws the lines that were added; returns the figure."""
        from matplotlib.collections import LineCollection

        for name, lines in self._lines.items():
            style = {"colors": self._styles[name]["color"], "linestyles": self._styles[name]["linestyle"]}
            self.axes.add_collection(LineCollection(lines, linewidths=1.1, **style), autolim=False)
        return self.figure

    def _corner(self, i: int) -> tuple[float, float]:
        return i % self.columns * _PANEL[0] + 0.38, i // self.columns * _PANEL[1] + 0.75


def legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]], with_id: bool) -> None:
    """Adds one legend above all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=ID_COLOUR, alpha=0.6, label="ID")] if with_id else []
    handles += [Line2D([], [], label=f" {name}" if name[:1] == "_" else name, **s) for name, s in styles.items()]
    columns = max(2, int(figure.get_figwidth() / 2.3))
    figure.legend(
        handles=handles,
        loc="outside upper center" if figure.get_layout_engine() else "upper center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )


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
