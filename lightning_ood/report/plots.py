"""Plots of a run: score histograms, ROC curves and heat maps of detectors by sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.rates import falls, threshold_95
from lightning_ood.ops.files import write_whole
from lightning_ood.report.drawing import (
    DPI,
    GOOD,
    ID_COLOUR,
    Sheet,
    margins,
    new_figure,
    plain_text,
    styles_of,
    text_width,
    write_cells,
)
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
    classes: Sequence[str] | None = None,
) -> list[Path]:
    """Draws every plot that the run has data for as ``<name>.png``.

    Args:
        scores: table of scores.
        metrics: result of ``summarise``.
        folder: output folder.
        summaries: detector -> summary of its fit.
        classes: names of the classes by label; the ones of their folders where None.

    Returns:
        Paths of the files, in order.
    """
    with plain_text():
        return _write_pictures(scores, metrics, Path(folder), summaries or {}, classes)


def _write_pictures(
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    folder: Path,
    summaries: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str] | None,
) -> list[Path]:
    figures = {
        "auroc": heat_map(metrics, "auroc"),
        "fpr95": heat_map(metrics, "fpr95"),
        "histograms": histograms(scores, metrics),
        "roc": roc_curves(scores, metrics),
        "taken_for": taken_for(scores, classes),
        "classes": class_failures(scores, classes),
        "blocks": blocks(summaries, metrics),
        "coverage": coverage(summaries),
        "contributions": contributions(summaries),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        if figure is not None:
            paths.append(write_whole(path, partial(figure.savefig, dpi=DPI, format="png")))
    return paths


def histograms(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draws a panel per detector: ID scores filled, OOD sets as lines, the threshold that keeps 95 % of ID dashed."""
    from matplotlib.collections import PolyCollection

    detectors, rows, styles = detectors_of(scores), rows_of(scores), styles_of(metrics)
    label = "Score (higher = more in-distribution); the outermost bins include all scores beyond them"
    sheet = Sheet(detectors, label, styles, with_id=True)
    filled, cuts = [], []
    for i, detector in enumerate(detectors):
        values = {name: scores[detector].to_numpy()[at] for name, at in rows.items()}
        low, high = histogram_range(values)
        edges = np.linspace(low, high, 36)
        shares = {n: np.histogram(v.clip(low, high), edges)[0] / len(v) for n, v in values.items()}
        top = max(share.max() for share in shares.values())
        x = np.repeat(np.linspace(0, 1, 36), 2)
        for name, share in shares.items():
            points = sheet.place(i, x, np.concatenate([[0], np.repeat(share / top, 2), [0]]))
            if name:
                sheet.add(name, points)
            else:
                filled.append(points)
        cut = (float(threshold_95(np.sort(values[""]))) - low) / (high - low)
        cuts.append(sheet.place(i, [np.clip(cut, 0, 1)] * 2, [0, 1]))
        sheet.ticks(i, {at: f"{low + at * (high - low):.2g}" for at in (0.0, 0.5, 1.0)}, {})
    sheet.axes.add_collection(PolyCollection(filled, facecolors=ID_COLOUR, alpha=0.6), autolim=False)
    sheet.rules(cuts, colors="black", linewidths=0.8, linestyles=[(0, (4, 3))])
    return sheet.draw()


def roc_curves(scores: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draws a panel per detector: share of ID kept over share of OOD accepted, a dot where 95 % of ID are kept."""
    detectors, rows, styles = detectors_of(scores), rows_of(scores), styles_of(metrics)
    label = "Share of OOD accepted (false positives); up: share of ID kept"
    sheet = Sheet(detectors, label, styles, with_id=False)
    fpr95 = metrics.set_index(["detector", "dataset"])["fpr95"]
    dots: dict[str, list[NDArray[Any]]] = {name: [] for name in styles}
    for i, detector in enumerate(detectors):
        values = scores[detector].to_numpy()
        for name in styles:
            sheet.add(name, sheet.place(i, *roc(values[rows[""]], values[rows[name]])))
            dots[name].append(sheet.place(i, fpr95[detector, name] / 100, 0.95))
        sheet.ticks(i, {0.0: "0", 0.5: "0.5", 1.0: "1"}, {0.0: "0", 0.5: "0.5", 0.95: "0.95"})
    count = range(len(detectors))
    sheet.rules([sheet.place(i, [0, 1], [0, 1]) for i in count], colors=ID_COLOUR, linewidths=0.6)
    sheet.rules(
        [sheet.place(i, [0, 1], [0.95, 0.95]) for i in count],
        **{"colors": ID_COLOUR, "linewidths": 0.6, "linestyles": [(0, (4, 3))]},
    )
    for name, points in dots.items():
        sheet.axes.plot(
            *np.array(points).T, "o", markersize=3.5, color=styles[name]["color"], scalex=False, scaley=False
        )
    return sheet.draw()


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
    names = [f"{name} ({group})" for name, group in keys]
    left, bottom = 0.15 + text_width(detectors), 0.2 + 0.7 * text_width(names)
    figure = new_figure(left + 0.8 + 0.78 * len(keys), 0.5 + bottom + 0.36 * len(detectors), layout=None)
    axes = figure.subplots()
    margins(figure, left, 0.8, 0.4, bottom)
    worst, best = (values.max(), values.min()) if falling else (values.min(), values.max())
    axes.imshow(values, aspect="auto", cmap=f"{GOOD}_r" if falling else GOOD)
    write_cells(axes, values, (values - worst) / (best - worst or 1) > 0.55, is_best(values, metric), below=(low, high))
    axes.set_xticks(range(len(keys)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(detectors)), detectors)
    axes.tick_params(labelsize=8, length=0)
    for tick, (name, _) in zip(axes.get_xticklabels(), keys, strict=True):
        tick.set_fontweight("bold" if name == MEAN else "normal")
    title = {"auroc": "AUROC, %", "fpr95": "FPR95 (ID positive), %"}.get(metric, f"{metric}, %")
    axes.set_title(
        f"{title}: {'lower' if falling else 'higher'} is better; below: 95 % intervals", fontsize=9, loc="left"
    )
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
    margin = max(0.5, 1e-6 * abs(least))
    return (least, most) if least < most else (least - margin, least + margin)


def roc(id_scores: NDArray[Any], ood_scores: NDArray[Any], count: int = 200) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns FPR and TPR, both falling, at ``count`` quantiles of ID scores ``[n]`` and of OOD scores ``[m]``."""
    id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
    at = np.linspace(0, 1, count)
    thresholds = np.unique([np.quantile(s, at, method="nearest") for s in (id_sorted, ood_sorted)])
    fpr, tpr = (1 - np.searchsorted(s, thresholds) / len(s) for s in (ood_sorted, id_sorted))
    return np.append(fpr, 0.0), np.append(tpr, 0.0)
