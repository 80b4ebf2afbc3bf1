"""Plots of fit summaries: FeatureNorm's blocks, NAC's coverage and LINe's contributions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lightning_ood.errors import InputError
from lightning_ood.ops.files import read_json, write_text
from lightning_ood.report.drawing import BAND, ID_COLOUR, LINE, legend, logarithmic, new_figure, panels_of, styles_of
from lightning_ood.report.table import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summaries = Mapping[str, Mapping[str, Any]]  # detector -> summary of its fit
_BAND = "line: median, band: 10th to 90th percentile"


def write_fits(folder: Path, **values: Any) -> None:
    """Writes summaries, costs and environment to ``fits.json``, so that a report needs no network."""
    write_text(folder / "fits.json", json.dumps(values, default=float))


def read_fits(folder: Path) -> dict[str, Any]:
    """Reads ``fits.json``; returns an empty mapping where the file does not exist.

    Raises:
        InputError: if it holds something else than :func:`write_fits` wrote; it can be deleted.
    """
    found = read_json(path := folder / "fits.json")
    for name in ("summaries", "costs"):
        nested = found.get(name) or {}
        if not isinstance(nested, dict) or not all(isinstance(value, dict) for value in nested.values()):
            raise InputError(f"{path} is damaged ({name} are no mappings): delete it; the command goes on without it")
    return found


def blocks(summaries: Summaries, metrics: pd.DataFrame) -> Figure | None:
    """Draws the NormRatio of each block beside the AUROC of the scored blocks, for each detector that chose a block."""
    found = ratios(summaries)
    if not found:
        return None
    styles = styles_of(metrics)
    alone = {summary["block"]: name for name, summary in summaries.items() if "block" in summary and name not in found}
    most = max(map(len, found.values()))
    figure = new_figure(8.5, 1.2 + len(found) * (0.7 + 0.27 * most))
    panels = figure.subplots(len(found), 2, squeeze=False, sharey="row")
    for (left, right), (name, values) in zip(panels, found.items(), strict=True):
        chosen = str(summaries[name]["block"])
        _ratios(left, name, values, chosen)
        for block, detector in {**alone, chosen: name}.items():
            if block in values:
                _sets(right, list(values).index(block), metrics[metrics["detector"] == detector], styles)
        right.set_xlim(None, 101)
        right.set_title("AUROC, %, of the blocks that were scored", fontsize=9, loc="left")
    legend(figure, {name: {**style, "marker": "o", "linestyle": ""} for name, style in styles.items()}, with_id=False)
    return figure


def _ratios(axes: Axes, name: str, values: Mapping[str, float], chosen: str) -> None:
    places = np.arange(len(values))
    colours = ["black" if block == chosen else "0.6" for block in values]  # the other colours mark sets
    axes.hlines(places, 1, list(values.values()), color=colours, linewidth=1.5)
    axes.scatter(list(values.values()), places, color=colours, s=26, zorder=3)
    axes.axvline(1, color=ID_COLOUR, linewidth=0.8)
    labels = [f"{block} (chosen)" if block == chosen else block for block in values]
    axes.set_yticks(places, labels)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", linewidth=0.4)
    axes.invert_yaxis()
    axes.set_title(f"{name}: NormRatio", fontsize=9, loc="left")


def _sets(axes: Axes, place: int, metrics: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    for row in metrics[metrics["dataset"] != MEAN].itertuples():
        axes.plot(row.auroc, place, "o", markersize=5, alpha=0.85, color=styles[str(row.dataset)]["color"])
    axes.grid(axis="y", linewidth=0.4)
    axes.tick_params(labelsize=8)


def coverage(summaries: Summaries) -> Figure | None:
    """Draws the coverage of each neuron state for each layer of NAC."""
    curves = _curves(summaries, "coverage.")
    if not curves:
        return None
    figure, panels = panels_of(list(curves), f"State of a neuron; up: coverage ({_BAND} over neurons)")
    for name, axes in panels:
        curve = curves[name]
        edges = np.clip(curve["at"], 0, 1)
        axes.stairs(curve["high"], edges, baseline=curve["low"], fill=True, color=BAND, alpha=0.6)
        axes.stairs(curve["middle"], edges, color=LINE, linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.spines[["right", "top"]].set_visible(False)
    return figure


def contributions(summaries: Summaries) -> Figure | None:
    """Draws the contributions of units to a class in falling order, as LINe prunes them."""
    curves = _curves(summaries, "contributions")
    if not curves:
        return None
    figure, panels = panels_of(list(curves), f"Rank of the unit; up: its contribution ({_BAND} over classes)")
    for name, axes in panels:
        curve = curves[name]
        axes.fill_between(curve["at"], curve["low"], curve["high"], color=BAND, alpha=0.6, linewidth=0)
        axes.plot(curve["at"], curve["middle"], color=LINE, linewidth=1.2)
        axes.axhline(0, color=ID_COLOUR, linewidth=0.6)
        logarithmic(axes)
        axes.spines[["right", "top"]].set_visible(False)
    return figure


def ratios(summaries: Summaries) -> dict[str, dict[str, float]]:
    """Returns detector -> block -> NormRatio for detectors that chose among several blocks."""
    found = {name: _under("ratio.", summary) for name, summary in summaries.items()}
    return {name: values for name, values in found.items() if len(values) > 1}


def _under(prefix: str, summary: Mapping[str, Any]) -> dict[str, float]:
    return {key.removeprefix(prefix): float(value) for key, value in summary.items() if key.startswith(prefix)}


def _curves(summaries: Summaries, entry: str) -> dict[str, dict[str, list[float]]]:
    """Returns title -> curve for every summary entry called ``entry``, also of a detector inside another."""
    found = {}
    for name, summary in summaries.items():
        for key, value in summary.items():
            before, match, after = key.rpartition(entry) if key.endswith(entry) else key.partition(entry)
            if match and isinstance(value, dict) and (not before or before.endswith(".")):
                found[", ".join(part for part in (name, f"{before}{after}") if part)] = value
    return found
