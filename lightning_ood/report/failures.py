"""Mistakes by class: the classes predicted for OOD images, and the classes whose predictions are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.metrics.rates import threshold_95
from lightning_ood.report.drawing import ERRORS, SHARES, margins, new_figure, text_width, write_cells
from lightning_ood.report.table import detectors_of, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 20  # classes in one plot


def class_names(scores: pd.DataFrame, classes: Sequence[str] | None = None) -> dict[int, str]:
    """Returns label -> name: that of ``classes``, else the folder of all ID images of the class, or the number."""
    labelled = scores[(scores["role"] == "id") & scores["label"].notna()]
    predicted = scores["prediction"].unique()
    names = {int(label): str(label) for label in {*labelled["label"].unique(), *predicted}}
    folders = labelled["path"].str.replace("\\", "/").str.split("/").str[-2].groupby(labelled["label"])
    if len(labelled) and labelled["path"].notna().all() and (folders.nunique() == 1).all():
        found = {int(label): str(name) for label, name in folders.first().items()}
        if len(set(found.values())) == len(found):  # else all classes are in one folder
            names |= found
    return {label: classes[label] if classes and label < len(classes) else name for label, name in names.items()}


@dataclass(frozen=True)
class ClassShares:
    """Mistakes of each detector by class, at the threshold that keeps 95 % of all ID images.

    Attributes:
        labels: the K classes that most OOD images are taken for.
        accepted: ``[D, K]`` accepted OOD images, in percent of those predicted as the class; NaN without any.
        rejected: ``[D, K]`` rejected ID images, in percent of the class (the predicted one where there are no labels).
    """

    labels: list[int]
    accepted: NDArray[np.float64]
    rejected: NDArray[np.float64]


def predicted_shares(scores: pd.DataFrame) -> tuple[NDArray[np.float64], list[int]]:
    """Computes the share of each set's images, ID first, predicted as each class: ``[S, K]`` in percent, K labels."""
    labels = list(class_names(scores))
    predicted = scores["prediction"].to_numpy()
    shares = np.array([[100 * np.mean(predicted[at] == label) for label in labels] for at in rows_of(scores).values()])
    columns = _most(shares[1:].max(axis=0))
    return shares[:, columns], [labels[i] for i in columns]


def taken_for(scores: pd.DataFrame, classes: Sequence[str] | None = None) -> Figure:
    """Draws the share of each set's images that the network predicts as each ID class."""
    rows, names = rows_of(scores), class_names(scores, classes)
    shares, shown = predicted_shares(scores)
    labels = [name or "ID" for name in rows]
    figure = new_figure(2.6 + 0.45 * len(shown), 1.9 + 0.26 * len(rows))
    axes = figure.subplots()
    _heat_map(axes, shares, [names[label] for label in shown], labels, SHARES)
    axes.set_title(f"Taken for, % of the set's images{_of(shown, names)}", fontsize=9, loc="left")
    return figure


def class_shares(scores: pd.DataFrame) -> ClassShares:
    """Computes the mistakes of each detector by class."""
    labels = list(class_names(scores))
    is_id = (scores["role"] == "id").to_numpy(dtype=bool)
    predicted = scores["prediction"].to_numpy()
    true = scores["label"].fillna(scores["prediction"]).to_numpy(dtype=np.int64)
    passed = np.array([_accepted(scores[detector].to_numpy(), is_id) for detector in detectors_of(scores)])
    columns = _most(np.array([np.sum(~is_id & (predicted == label)) for label in labels]))
    shown = [labels[i] for i in columns]
    accepted = np.array([_share(passed[:, ~is_id & (predicted == label)]) for label in shown]).T
    rejected = np.array([_share(~passed[:, is_id & (true == label)]) for label in shown]).T
    return ClassShares(shown, accepted, rejected)


def class_failures(scores: pd.DataFrame, classes: Sequence[str] | None = None) -> Figure:
    """Draws detectors by classes: accepted OOD images on the left, rejected ID images on the right, 5 % on average."""
    names, detectors = class_names(scores, classes), detectors_of(scores)
    shares = class_shares(scores)
    chosen = [names[label] for label in shares.labels]
    before, below = 0.15 + text_width(detectors), 0.3 + 0.7 * text_width(map(_short, chosen))
    figure = new_figure(before + 3.0 + 0.76 * len(chosen), 0.7 + below + 0.24 * len(detectors), layout=None)
    left, right = figure.subplots(1, 2, sharey=True)
    margins(figure, before, 1.2, 0.55, below, gap=1.8)
    _heat_map(left, shares.accepted, chosen, detectors, ERRORS)
    _heat_map(right, shares.rejected, chosen, detectors, ERRORS)
    of = _of(shares.labels, names)
    left.set_title("Accepted, % of the OOD images\ntaken for the class" + of, fontsize=9, loc="left")
    right.set_title("Rejected, % of the ID images\nof the class (5 on average)", fontsize=9, loc="left")
    return figure


def _accepted(values: NDArray[np.floating], is_id: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return values >= threshold_95(np.sort(values[is_id]))


def _share(passed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Computes the share of images that passed in percent: ``[D, N] -> [D]``, NaN where N = 0."""
    return 100 * passed.mean(axis=1) if passed.shape[1] else np.full(len(passed), np.nan)


def _most(weight: NDArray[np.number]) -> list[int]:
    """Returns the indices of the ``MOST`` largest weights ``[K]``, ascending."""
    return sorted(np.argsort(-weight, kind="stable")[:MOST].tolist())


def _of(columns: list[int], names: dict[int, str]) -> str:
    return (
        f" (the {len(columns)} classes that most are taken for, of {len(names)})" if len(columns) < len(names) else ""
    )


def _heat_map(axes: Axes, values: NDArray[np.float64], columns: list[str], rows: list[str], colours: str) -> None:
    most = max(25.0, float(np.nanmax(values)))
    axes.imshow(values, aspect="auto", cmap=colours, vmin=0, vmax=most)
    write_cells(axes, values, values > 0.55 * most, np.zeros(values.shape, dtype=bool), digits=0)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if max(map(len, columns)) > 3 else {}
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], **turned)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=8, length=0)
    axes.set_facecolor("#EEEEEE")  # cells without an image


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
