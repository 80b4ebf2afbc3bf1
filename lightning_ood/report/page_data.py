"""What the page draws in the browser: curves, histograms, mistakes and fits of each detector, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.rates import threshold_95
from lightning_ood.report.failures import class_names, class_shares, predicted_shares
from lightning_ood.report.mistakes import image_key, worst
from lightning_ood.report.plots import histogram_range
from lightning_ood.report.table import detectors_of, rows_of

_BINS = 48  # fewer where a set is small
_ID_POINTS, _OOD_POINTS = 101, 41  # quantiles of the scores at which the curves are stored
_WHOLE = 10_000  # shares are stored as integers of this


def page_data(scores: pd.DataFrame, images: Mapping[str, str], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the part of the page's data that comes from the scores.

    Args:
        scores: table of scores without covariate-shifted images.
        images: key of an image -> data URI of its thumbnail.
        classes: names of the classes by label; the ones of their folders where None.
    """
    rows = rows_of(scores)
    names = class_names(scores, classes)
    taken, shown = predicted_shares(scores)
    shares = class_shares(scores)
    labels = [names[label] for label in shares.labels]
    detectors: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(detectors_of(scores)):
        values = {key: np.sort(scores[name].to_numpy(dtype=np.float64)[at]) for key, at in rows.items()}
        by_class = {"names": labels, "accepted": _whole(shares.accepted[i]), "rejected": _whole(shares.rejected[i])}
        detectors[name] = {
            "curves": curves(values),
            "histogram": histogram(values),
            "cut": _short(float(threshold_95(values[""]))),
            "classes": by_class,
            "mistakes": [
                [title, [_mistake(row, name, names) for _, row in found.iterrows()]]
                for title, found in worst(scores, name).items()
            ],
        }
    used = {entry[0] for found in detectors.values() for _, entries in found["mistakes"] for entry in entries}
    return {
        "sets": [name for name in rows if name],
        "detectors": detectors,
        "taken": {"names": [names[label] for label in shown], "sets": list(rows), "shares": _rounded(taken)},
        "images": {key: image for key, image in images.items() if key in used},
    }


def curves(values: Mapping[str, NDArray[np.float64]]) -> dict[str, list[Any]]:
    """Returns thresholds, rising, and the share of each set's images that score at or above each of them.

    Args:
        values: set -> sorted scores; the ID images under the empty name come first.
    """
    at = [
        np.quantile(v, np.linspace(0, 1, _OOD_POINTS if name else _ID_POINTS), method="nearest")
        for name, v in values.items()
    ]
    thresholds = np.unique(np.concatenate([*at, [threshold_95(values[""])]]))
    kept = [1 - np.searchsorted(v, thresholds) / len(v) for v in values.values()]
    return {
        "at": [_short(t) for t in thresholds],
        "kept": [np.rint(share * _WHOLE).astype(int).tolist() for share in kept],
    }


def histogram(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Returns the range of the bins and the share of each set's images in each bin; the outermost hold the tails."""
    low, high = histogram_range(values)
    count = int(np.clip(2 * np.sqrt(min(map(len, values.values()))), 12, _BINS))
    edges = np.linspace(low, high, count + 1)
    counts = [np.histogram(v.clip(low, high), edges)[0] / len(v) for v in values.values()]
    return {"low": low, "high": high, "shares": [np.rint(share * _WHOLE).astype(int).tolist() for share in counts]}


def facts(
    summary: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], dict[str, list[tuple[str, float, bool]]], dict[str, Any]]:
    """Splits the summary of a fit into single facts, charts of one quantity, and curves.

    Numbers ``ratio.<block>`` are one quantity of several blocks and make a chart; other names with a dot, such as the
    median and the spread of a member, are facts: they have no common axis.

    Returns:
        Facts (key, text); charts: name -> (item, value, chosen); curves: name -> ``at``, ``low``, ``middle``, ``high``.
    """
    named = {value for value in summary.values() if isinstance(value, str)}
    charts: dict[str, list[tuple[str, float, bool]]] = {}
    for key, value in summary.items():
        name, is_chart, item = key.partition("ratio.")
        if is_chart and (not name or name.endswith(".")) and isinstance(value, (int, float)):
            charts.setdefault(f"{name}ratio", []).append((item, float(value), item in named))
    charts = {name: items for name, items in charts.items() if len(items) > 1}
    drawn = {f"{name}.{item}" for name, items in charts.items() for item, _, _ in items}
    told = [
        (key, f"{value:.6g}" if isinstance(value, float) else str(value))
        for key, value in summary.items()
        if key not in drawn and not isinstance(value, Mapping)
    ]
    found = {
        key: {part: [_finite(x) for x in value[part]] for part in ("at", "low", "middle", "high")}
        for key, value in summary.items()
        if isinstance(value, Mapping) and {"at", "low", "middle", "high"} <= set(value)
    }
    return told, charts, found


def _mistake(row: pd.Series, detector: str, names: Mapping[int, str]) -> list[Any]:
    """Returns key of the image, set, true class, predicted class and score."""
    is_labelled = row["role"] == "id" and not pd.isna(row["label"])
    true = names.get(int(row["label"]), str(row["label"])) if is_labelled else ""
    taken = names.get(int(row["prediction"]), str(row["prediction"]))
    return [image_key(row["dataset"], row["index"]), str(row["dataset"]), true, taken, _short(float(row[detector]))]


def _whole(percent: NDArray[np.float64]) -> list[int | None]:
    return [None if math.isnan(value) else round(value) for value in percent]


def _rounded(rows: Iterable[Iterable[float]]) -> list[list[float]]:
    return [[round(float(value), 1) for value in row] for row in rows]


def _short(value: float) -> float:
    """Rounds to 6 significant digits, which keeps the page small."""
    return float(f"{value:.6g}")


def _finite(value: float) -> float | None:
    return _short(float(value)) if math.isfinite(value) else None
