"""Plots of a run: score histograms, ROC curves and heat maps of detectors by sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.rates import falls, threshold_95
from lightning_ood.ops.files import write_whole
from lightning_ood.report.drawing import DPI, GOOD, ID_COLOUR, legend, new_figure, panels_of, styles_of, write_cells
from lightning_ood.report.failures import class_failures, taken_for
from lightning_ood.report.fits import blocks, contributions, coverage
from lightning_ood.report.table import MEAN, detectors_of, is_best, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_pictures(
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    folder: Path | str,
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Draws every plot that the run has data for as ``<name>.png``.

    Args:
        scores: table of scores.
        metrics: result of ``summarise``.
        folder: output folder.
        summaries: detector -> summary of its fit.

    Returns:
        Paths of the files, in order.
    """
    summaries = summaries or {}
    figures = {
        "auroc": heat_map(metrics, "auroc"),
        "fpr95": heat_map(metrics, "fpr95"),
        "histograms": histograms(scores, metrics),
        "roc": roc_curves(scores, metrics),
        "taken_for": taken_for(scores),
        "classes": class_failures(scores),
        "blocks": blocks(summaries, metrics),
        "coverage": coverage(summaries),
        "contributions": contributions(summaries),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = Path(folder) / f"{name}.png"
        path.unlink(missing_ok=True)
        if figure is not None:
            paths.append(write_whole(path, partial(figure.savefig, dpi=DPI, format="png")))
    return paths


def histograms(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draws a panel per detector: ID scores filled, OOD sets as lines, the threshold that keeps 95 % of ID dashed."""
    figure, panels = panels_of(
        detectors_of(scores), "Score (higher = more in-distribution); the outermost bins include all scores beyond them"
    )
    rows, styles = rows_of(scores), styles_of(metrics)
    for detector, axes in panels:
        values = {name: scores[detector].to_numpy()[at] for name, at in rows.items()}
        edges = np.linspace(*histogram_range(values), 36)
        for name, value in values.items():
            density = np.histogram(value.clip(edges[0], edges[-1]), edges)[0] / len(value)
            if name == "":
                axes.stairs(density, edges, fill=True, color=ID_COLOUR, alpha=0.6)
            else:
                axes.stairs(density, edges, linewidth=1.1, **styles[name])
        axes.axvline(threshold_95(np.sort(values[""])), color="black", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
    legend(figure, styles, with_id=True)
    return figure


def roc_curves(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draws a panel per detector: share of ID kept over share of OOD accepted, a dot where 95 % of ID are kept."""
    figure, panels = panels_of(detectors_of(scores), "Share of OOD accepted (false positives); up: share of ID kept")
    rows, styles = rows_of(scores), styles_of(metrics)
    fpr95 = metrics.set_index(["detector", "dataset"])["fpr95"]
    for detector, axes in panels:
        values = scores[detector].to_numpy()
        for name in styles:
            fpr, tpr = roc(values[rows[""]], values[rows[name]])
            axes.plot(fpr, tpr, linewidth=1.1, **styles[name])
            axes.plot(fpr95[detector, name] / 100, 0.95, "o", markersize=3.5, color=styles[name]["color"])
        axes.plot([0, 1], [0, 1], color=ID_COLOUR, linewidth=0.6)
        axes.axhline(0.95, color=ID_COLOUR, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 0.95])
        axes.spines[["right", "top"]].set_visible(False)
    legend(figure, styles, with_id=False)
    return figure


def heat_map(metrics: pd.DataFrame, metric: str) -> Figure:
    """Draws detectors by sets and group means, each value with its interval; darker is better, the best is bold.

    Args:
        metrics: result of ``summarise``.
        metric: column of ``metrics`` in percent that has an interval.
    """
    columns = metrics[["dataset", "group"]].drop_duplicates().sort_values("group", kind="stable", key=_first_seen)
    keys = list(columns.itertuples(index=False, name=None))
    detectors = list(metrics["detector"].drop_duplicates())
    table = metrics.set_index(["detector", "dataset", "group"])
    cells = [[(detector, dataset, group) for dataset, group in keys] for detector in detectors]
    values, low, high = (
        table[name]
        .to_numpy()[table.index.get_indexer([cell for row in cells for cell in row])]
        .reshape(len(detectors), -1)
        for name in (metric, f"{metric}_low", f"{metric}_high")
    )
    falling = falls(metric)
    figure = new_figure(2.4 + 0.78 * len(keys), 1.6 + 0.36 * len(detectors))
    axes = figure.subplots()
    worst, best = (values.max(), values.min()) if falling else (values.min(), values.max())
    image = axes.imshow(values, aspect="auto", cmap=f"{GOOD}_r" if falling else GOOD)
    write_cells(axes, values, (values - worst) / (best - worst or 1) > 0.55, is_best(values, metric), below=(low, high))
    axes.set_xticks(range(len(keys)), [f"{name} ({group})" for name, group in keys], rotation=40, ha="right")
    axes.set_yticks(range(len(detectors)), detectors)
    axes.tick_params(labelsize=8, length=0)
    for tick, (name, _) in zip(axes.get_xticklabels(), keys, strict=True):
        tick.set_fontweight("bold" if name == MEAN else "normal")
    title = {"auroc": "AUROC, %", "fpr95": "FPR95 (ID positive), %"}.get(metric, f"{metric}, %")
    axes.set_title(
        f"{title}: {'lower' if falling else 'higher'} is better; below: 95 % intervals", fontsize=9, loc="left"
    )
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)
    return figure


def _first_seen(groups: pd.Series[str]) -> pd.Series[int]:
    return groups.map({name: i for i, name in enumerate(groups.drop_duplicates())})


def histogram_range(values: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Returns the range of a histogram; cuts tails at 4 times the distance from the ID median to its 5 % or 95 %."""
    low, middle, high = np.quantile(values[""].astype(np.float64), [0.05, 0.5, 0.95])
    least = min(float(np.quantile(v, 0.005)) for v in values.values())
    most = max(float(np.quantile(v, 0.995)) for v in values.values())
    if low < middle:
        least = max(least, low - 4 * (middle - low))
    if middle < high:
        most = min(most, high + 4 * (high - middle))
    return (least, most) if least < most else (least - 0.5, least + 0.5)


def roc(id_scores: NDArray[Any], ood_scores: NDArray[Any], count: int = 200) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns FPR and TPR, both falling, at ``count`` quantiles of ID scores ``[n]`` and of OOD scores ``[m]``."""
    id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
    at = np.linspace(0, 1, count)
    thresholds = np.unique([np.quantile(s, at, method="nearest") for s in (id_sorted, ood_sorted)])
    fpr, tpr = (1 - np.searchsorted(s, thresholds) / len(s) for s in (ood_sorted, id_sorted))
    return np.append(fpr, 0.0), np.append(tpr, 0.0)
