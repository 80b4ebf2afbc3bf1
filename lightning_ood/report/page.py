"""The self-contained HTML page of a run: the answer, detectors by sets, one detector at a time, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from lightning_ood.metrics.rates import METRICS, falls
from lightning_ood.report.console import caption
from lightning_ood.report.doubts import Doubts, by_sentence
from lightning_ood.report.environment import bibtex, papers
from lightning_ood.report.grid import Grid, grid, within
from lightning_ood.report.page_data import facts
from lightning_ood.report.run_results import RunResults
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
    results: RunResults,
    data: Mapping[str, Any] | None = None,
    title: str = "Out-of-distribution detection",
    note: str = "",
) -> str:
    """Renders the page as HTML that needs no network and no other file.

    Args:
        results: of the run; numbers ``ratio.<item>`` of a fit's summary are drawn in one chart, doubts are counted in
            the table and told with the detector.
        data: result of ``page_data``; without it the page shows the tables alone.
        title: title of the page.
        note: why some images of mistakes could not be read.
    """
    metrics, table = results.metrics, grid(results.metrics)
    doubts = {name: list(results.doubts[name]) for name in table.detectors if results.doubts.get(name)}
    lines = caption(metrics, results.accuracy).splitlines()
    return template("page.html").render(
        title=title,
        caption="\n".join(line for line in lines if not line.startswith("Cells:")),
        answer=_answer(metrics, doubts),
        table=table,
        rows=_rows(table),
        titles=TITLES,
        groups=list(dict.fromkeys(column.group for column in table.columns if column.group and not column.full)),
        full=any(column.full for column in table.columns),
        doubts=doubts,
        doubtful=by_sentence(doubts),
        costs=results.costs if any(any(cost.values()) for cost in results.costs.values()) else {},
        data=_all_data(table, doubts, results.summaries, data),
        note=note,
        config=results.config,
        environment=results.environment,
        bibtex=bibtex(results.environment),
        papers=papers(results.config, metrics["detector"].drop_duplicates()),
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
