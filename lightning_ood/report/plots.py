"""The pictures of a run: score histograms, ROC curves and a heat map of detectors by sets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics import count_95
from lightning_ood.report.table import MEAN, detectors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; the line style changes when they start again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_ID_COLOUR = "#8C8C8C"
_PANEL = (3.1, 2.4)  # inches
_DPI = 110


def write_pictures(scores: pd.DataFrame, metrics: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Draws ``histograms.png``, ``roc.png``, ``auroc.png`` and ``fpr95.png``.

    Args:
        scores: table of scores.
        metrics: what ``summarise`` made of it.
        folder: where the files go.

    Returns:
        The files, in the order named.
    """
    figures = {
        "histograms": histograms(scores, metrics),
        "roc": roc_curves(scores, metrics),
        "auroc": heat_map(metrics, "auroc"),
        "fpr95": heat_map(metrics, "fpr95"),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(Path(folder) / f"{name}.png")
        figure.savefig(paths[-1], dpi=_DPI)
    return paths


def histograms(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """A panel per detector: the ID scores filled, each OOD set a line, the threshold that keeps 95 % of ID dashed."""
    figure, panels = _grid(
        detectors_of(scores), "Score (higher = more in-distribution); the outermost bins hold what lies further out"
    )
    rows, styles = _rows(scores), _styles(metrics)
    for detector, axes in panels:
        values = {name: scores[detector].to_numpy()[at] for name, at in rows.items()}
        edges = np.linspace(*_span(values), 36)
        for name, value in values.items():
            density = np.histogram(value.clip(edges[0], edges[-1]), edges)[0] / len(value)
            if name == "":
                axes.stairs(density, edges, fill=True, color=_ID_COLOUR, alpha=0.6)
            else:
                axes.stairs(density, edges, linewidth=1.1, **styles[name])
        threshold = np.sort(values[""])[len(values[""]) - count_95(len(values[""]))]
        axes.axvline(threshold, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
    _legend(figure, styles, with_id=True)
    return figure


def roc_curves(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """A panel per detector: the share of ID kept over the share of OOD accepted, a dot where 95 % of ID are kept."""
    figure, panels = _grid(detectors_of(scores), "Share of OOD accepted (false positives); up: share of ID kept")
    rows, styles = _rows(scores), _styles(metrics)
    fpr95 = metrics.set_index(["detector", "dataset"])["fpr95"]
    for detector, axes in panels:
        values = scores[detector].to_numpy()
        for name in styles:
            fpr, tpr = _roc(values[rows[""]], values[rows[name]])
            axes.plot(fpr, tpr, linewidth=1.1, **styles[name])
            axes.plot(fpr95[detector, name] / 100, 0.95, "o", markersize=3.5, color=styles[name]["color"])
        axes.plot([0, 1], [0, 1], color=_ID_COLOUR, linewidth=0.6)
        axes.axhline(0.95, color=_ID_COLOUR, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 0.95])
        axes.spines[["right", "top"]].set_visible(False)
    _legend(figure, styles, with_id=False)
    return figure


def heat_map(metrics: pd.DataFrame, metric: str) -> Figure:
    """Detectors by sets and group means, each value written in its cell; darker is better, the best is bold.

    Args:
        metrics: what ``summarise`` gave.
        metric: a column of it, in percent.
    """
    columns = metrics[["dataset", "group"]].drop_duplicates().sort_values("group", kind="stable", key=_first_seen)
    keys = list(columns.itertuples(index=False, name=None))
    detectors = list(metrics["detector"].drop_duplicates())
    held = metrics.set_index(["detector", "dataset", "group"])[metric]
    values = np.array([[held[detector, dataset, group] for dataset, group in keys] for detector in detectors])
    falling = metric.startswith("fpr95")
    figure = _figure(2.4 + 0.62 * len(keys), 1.6 + 0.24 * len(detectors))
    axes = figure.subplots()
    worst, best = (values.max(), values.min()) if falling else (values.min(), values.max())
    image = axes.imshow(values, aspect="auto", cmap="cividis_r" if not falling else "cividis")
    _write_cells(axes, values, (values - worst) / (best - worst or 1), falling)
    axes.set_xticks(range(len(keys)), [f"{name} ({group})" for name, group in keys], rotation=40, ha="right")
    axes.set_yticks(range(len(detectors)), detectors)
    axes.tick_params(labelsize=8, length=0)
    for tick, (name, _) in zip(axes.get_xticklabels(), keys, strict=True):
        tick.set_fontweight("bold" if name == MEAN else "normal")
    title = {"auroc": "AUROC, %", "fpr95": "FPR95 (ID positive), %"}.get(metric, f"{metric}, %")
    axes.set_title(f"{title}: {'lower' if falling else 'higher'} is better", fontsize=9, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)
    return figure


def _write_cells(axes: Axes, values: NDArray[np.float64], goodness: NDArray[np.float64], falling: bool) -> None:
    best = values.round(1).min(axis=0) if falling else values.round(1).max(axis=0)
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.1f}",
            color="white" if goodness[row, column] > 0.55 else "black",
            fontweight="bold" if round(value, 1) == best[column] else "normal",
            ha="center",
            va="center",
            fontsize=7,
        )


def _first_seen(groups: pd.Series[str]) -> pd.Series[int]:
    return groups.map({name: i for i, name in enumerate(groups.drop_duplicates())})


def _span(values: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Range of a histogram: all scores but long tails, measured by the spread of ID (log probabilities have them)."""
    low, middle, high = np.quantile(values[""].astype(np.float64), [0.05, 0.5, 0.95])
    least = min(float(np.quantile(v, 0.005)) for v in values.values())
    most = max(float(np.quantile(v, 0.995)) for v in values.values())
    if low < middle:
        least = max(least, low - 4 * (middle - low))
    if middle < high:
        most = min(most, high + 4 * (high - middle))
    return (least, most) if least < most else (least - 0.5, least + 0.5)


def _roc(id_scores: NDArray[Any], ood_scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points (FPR, TPR) at some 400 thresholds, those of either set's quantiles."""
    id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
    at = np.linspace(0, 1, 200)
    thresholds = np.unique([np.quantile(s, at, method="nearest") for s in (id_sorted, ood_sorted)])
    fpr, tpr = (1 - np.searchsorted(s, thresholds) / len(s) for s in (ood_sorted, id_sorted))
    return np.append(fpr, 0.0), np.append(tpr, 0.0)


def _rows(scores: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Name of an OOD set -> its rows; the ID images stand first, under the empty name."""
    is_id = (scores["role"] == "id").to_numpy(dtype=bool)
    names = scores["dataset"].to_numpy()
    sets = scores["dataset"][~is_id].drop_duplicates()
    return {"": np.flatnonzero(is_id), **{str(name): np.flatnonzero((names == name) & ~is_id) for name in sets}}


def _styles(metrics: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """Colour and line style of each OOD set, the same in every picture."""
    sets = metrics["dataset"][metrics["dataset"] != MEAN].drop_duplicates()
    n = len(_COLOURS)
    return {str(s): {"color": _COLOURS[i % n], "linestyle": _STYLES[i // n % 4]} for i, s in enumerate(sets)}


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no global state, no window, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _grid(detectors: list[str], label: str) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """A titled panel for each detector."""
    columns = min(len(detectors), 5)
    rows = math.ceil(len(detectors) / columns)
    figure = _figure(max(columns, 2) * _PANEL[0], rows * _PANEL[1] + 0.9)
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


def _legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]], with_id: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_ID_COLOUR, alpha=0.6, label="ID")] if with_id else []
    handles += [Line2D([], [], label=name, **style) for name, style in styles.items()]
    columns = max(2, int(figure.get_figwidth() / 2.3))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
