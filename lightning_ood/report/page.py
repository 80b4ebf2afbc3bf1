"""The self-contained HTML page of a run: the answer, detectors by sets, one detector at a time, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from lightning_ood.metrics.rates import METRICS, falls
from lightning_ood.report.console import Costs, caption
from lightning_ood.report.doubts import Doubts, by_sentence
from lightning_ood.report.environment import bibtex, environment, papers
from lightning_ood.report.grid import Grid, grid, within
from lightning_ood.report.page_data import facts
from lightning_ood.report.table import INTERVALS, MEAN

TITLES = {
    "auroc": "AUROC",
    "fpr95": "FPR95 (ID positive)",
    "fpr95_ood_positive": "FPR95 (OOD positive)",
    "aupr_in": "AUPR in",
    "aupr_out": "AUPR out",
}
_LEADERS = 5  # detectors of a group in the answer


def render_page(
    metrics: pd.DataFrame,
    *,
    data: Mapping[str, Any] | None = None,
    accuracy: float | None = None,
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    config: str = "",
    title: str = "Out-of-distribution detection",
    costs: Costs | None = None,
    note: str = "",
    found: Mapping[str, str] | None = None,
    doubts: Doubts | None = None,
) -> str:
    """Renders the page as HTML that needs no network and no other file.

    Args:
        metrics: result of ``summarise``.
        data: result of ``page_data``; without it the page shows the tables alone.
        accuracy: accuracy on the ID images in percent.
        summaries: detector -> summary of its fit; numbers ``ratio.<item>`` are drawn in one chart.
        config: config of the run as YAML.
        title: title of the page.
        costs: detector -> extra forwards per image in each command.
        note: why some images of mistakes could not be read.
        found: environment of the test; the current one where None.
        doubts: detector -> what is doubtful about its row; counted in the table, told with the detector.
    """
    found = found or environment()
    table = grid(metrics)
    doubts = {name: list(doubts[name]) for name in table.detectors if doubts and doubts.get(name)}
    return template("page.html").render(
        title=title,
        caption="\n".join(line for line in caption(metrics, accuracy).splitlines() if not line.startswith("Cells:")),
        answer=_answer(metrics, doubts),
        table=table,
        rows=_rows(table),
        titles=TITLES,
        groups=list(dict.fromkeys(column.group for column in table.columns if column.group and not column.full)),
        full=any(column.full for column in table.columns),
        doubts=doubts,
        doubtful=by_sentence(doubts),
        costs=costs if any(any(cost.values()) for cost in (costs or {}).values()) else {},
        data=_all_data(table, doubts, summaries or {}, data),
        note=note,
        config=config,
        environment=found,
        bibtex=bibtex(found),
        papers=papers(config, metrics["detector"].drop_duplicates()),
    )


def template(name: str) -> jinja2.Template:
    """Returns a page beside this file that escapes every value it is given."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    engine.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    return engine.get_template(name)


def _answer(metrics: pd.DataFrame, doubts: Doubts) -> list[dict[str, Any]]:
    """Returns, for each group of sets, the best detectors with their intervals and how many are not told apart."""
    found = []
    for group, rows in metrics.groupby("group", sort=False):
        shown = rows[rows["dataset"] == MEAN].sort_values("auroc", ascending=False, kind="stable")
        sets = [str(name) for name in rows["dataset"].drop_duplicates() if name != MEAN]
        best = shown.iloc[0]
        near = shown[shown["auroc"] >= best["auroc_low"]]
        leaders = shown.head(_LEADERS).to_dict("records")
        low = min(row["auroc_low"] for row in leaders)
        start = float(np.floor(min(low, 99) / 5) * 5)
        for row in leaders:
            row["left"], row["right"], row["at"] = (
                100 * (row[name] - start) / (100 - start) for name in ("auroc_low", "auroc_high", "auroc")
            )
            row["doubtful"] = bool(doubts.get(row["detector"]))
        found.append({"group": str(group), "sets": sets, "leaders": leaders, "near": len(near) - 1, "start": start})
    return found


def _rows(table: Grid) -> list[dict[str, Any]]:
    """Returns the cells of AUROC, with which the page is delivered; the browser writes those of other metrics."""
    values, near = table.values["auroc"], within(table, "auroc", falling=False)
    shown = values.round(1)
    best = shown == np.nanmax(shown, axis=0)
    return [
        {"name": name, "cells": list(zip(values[i], best[i], near[i], strict=True))}
        for i, name in enumerate(table.detectors)
    ]


def _all_data(
    table: Grid, doubts: Doubts, summaries: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns everything that the script of the page reads."""
    fits = {name: facts(summary) for name, summary in summaries.items() if name in table.detectors}
    return {
        "names": list(table.detectors),
        "columns": [
            {"title": column.title, "group": column.group, "mean": column.dataset == MEAN, "full": column.full}
            for column in table.columns
        ],
        "values": {name: numbers(table.values[name]) for name in (*METRICS, *INTERVALS)},
        "metrics": {name: {"title": TITLES[name], "falls": falls(name)} for name in METRICS},
        "doubts": dict(doubts),
        "fits": {
            name: {"facts": told, "charts": charts, "curves": drawn} for name, (told, charts, drawn) in fits.items()
        },
        **(data or {"sets": [], "detectors": {}, "taken": None, "images": {}}),
    }


def numbers(values: np.ndarray) -> list[list[float | None]]:
    """Rounds values to two digits for the script of a page; NaN becomes None."""
    return [[None if np.isnan(value) else round(float(value), 2) for value in row] for row in values]
