"""Turns a table of scores into metrics, a terminal table, plots, an HTML page and logged results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.ops.files import write_text
from lightning_ood.report.console import Costs, print_table
from lightning_ood.report.doubts import Doubts
from lightning_ood.report.environment import environment
from lightning_ood.report.fits import read_fits, write_fits
from lightning_ood.report.loggers import log_checkpoint, log_run, scalars, warn_on_failure
from lightning_ood.report.mistakes import Read, read_thumbnails, reader, write_mistakes
from lightning_ood.report.overfitting import training_auroc
from lightning_ood.report.page import render_page
from lightning_ood.report.page_data import page_data
from lightning_ood.report.plots import write_pictures
from lightning_ood.report.table import (
    accuracy,
    read_scores,
    summarise,
    without_csid,
    write_metrics,
    write_scores,
)

__all__ = [
    "Read",
    "accuracy",
    "log_checkpoint",
    "log_run",
    "print_table",
    "read_scores",
    "reader",
    "scalars",
    "summarise",
    "training_auroc",
    "warn_on_failure",
    "without_csid",
    "write_metrics",
    "write_report",
    "write_scores",
]


def write_report(
    run_dir: Path | str,
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    accuracy: float | None = None,
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    config: str = "",
    costs: Costs | None = None,
    read: Read | None = None,
    doubts: Doubts | None = None,
    classes: Sequence[str] | None = None,
) -> list[Path]:
    """Writes ``report/*.png`` and ``report/index.html``, one self-contained page.

    The summaries of the fits are stored in ``report/fits.json`` and read from it where ``summaries`` is None.

    Args:
        run_dir: folder of the run.
        scores: table of scores.
        metrics: result of ``summarise``.
        accuracy: accuracy on the ID images in percent.
        summaries: detector -> summary of its fit.
        config: config of the run as YAML.
        costs: detector -> extra forwards per image.
        read: reads an image of the table, for thumbnails.
        doubts: detector -> what is doubtful about its row.
        classes: names of the classes by label, for people; stored and read like the summaries.

    Returns:
        Paths of the plots, then of the page.
    """
    folder = Path(run_dir) / "report"
    if summaries is not None:
        write_fits(folder, summaries=summaries, costs=costs, environment=environment(), classes=classes)
    fits = read_fits(folder)
    summaries = {name: summary for name, summary in fits.get("summaries", {}).items() if name in scores}
    shown, classes = without_csid(scores), fits.get("classes")
    mistakes, note = write_mistakes(shown, folder, read, classes)
    pictures = write_pictures(shown, without_csid(metrics), folder, summaries, classes) + mistakes
    context = _page_context(Path(run_dir), fits) | {"note": note, "config": config, "doubts": doubts}
    data = page_data(shown, read_thumbnails(folder) if mistakes else {}, classes)
    text = render_page(metrics, data=data, accuracy=accuracy, summaries=summaries, **context)
    return [*pictures, write_text(folder / "index.html", text)]


def _page_context(run: Path, fits: Mapping[str, Any]) -> dict[str, Any]:
    title = f"Out-of-distribution detection: {run.resolve().name}"
    return {"title": title, "costs": fits.get("costs"), "found": fits.get("environment")}
