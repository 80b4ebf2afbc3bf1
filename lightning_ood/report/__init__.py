"""From the table of scores to everything a run leaves behind: metrics, table, pictures, page, logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.ops.files import write_text
from lightning_ood.report.console import Costs, print_table
from lightning_ood.report.environment import environment
from lightning_ood.report.fits import read_fits, write_fits
from lightning_ood.report.loggers import log_checkpoint, log_run, scalars, telling
from lightning_ood.report.mistakes import Read, reader, write_mistakes
from lightning_ood.report.overfitting import training_auroc
from lightning_ood.report.page import render_page
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
    "telling",
    "training_auroc",
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
) -> list[Path]:
    """Writes ``report/*.png`` and ``report/index.html``, one page that holds it all.

    What the detectors say of their fit stays in ``report/fits.json``, and comes from there where it is not given.

    Args:
        run_dir: folder of the run.
        scores: table of scores.
        metrics: of ``summarise``.
        accuracy: of the ID images, percent.
        summaries: detector -> what it says of its fit.
        config: of the run, YAML.
        costs: detector -> forward passes per image beyond the shared one.
        read: how an image of the table is read, for thumbnails.

    Returns:
        The pictures, then the page.
    """
    folder = Path(run_dir) / "report"
    if summaries is not None:
        write_fits(folder, summaries=summaries, costs=costs, environment=environment())
    fits = read_fits(folder)
    said = {name: summary for name, summary in fits.get("summaries", {}).items() if name in scores}
    shown = without_csid(scores)
    mistakes, note = write_mistakes(shown, folder, read)
    pictures = write_pictures(shown, without_csid(metrics), folder, said) + mistakes
    about = _about(Path(run_dir), fits) | {"note": note, "config": config}
    text = render_page(metrics, pictures, accuracy=accuracy, summaries=said, **about)
    return [*pictures, write_text(folder / "index.html", text)]


def _about(run: Path, fits: Mapping[str, Any]) -> dict[str, Any]:
    title = f"Out-of-distribution detection: {run.resolve().name}"
    return {"title": title, "costs": fits.get("costs"), "found": fits.get("environment")}
