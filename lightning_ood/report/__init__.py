"""From the table of scores to everything a run leaves behind: metrics, table, pictures, page, logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.report.console import Costs, print_table
from lightning_ood.report.loggers import log_run, scalars
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
    "accuracy",
    "log_run",
    "print_table",
    "read_scores",
    "scalars",
    "summarise",
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
) -> list[Path]:
    """Writes ``report/*.png`` and ``report/index.html``, one page that holds it all.

    Args:
        run_dir: folder of the run.
        scores: table of scores.
        metrics: what ``summarise`` made of it.
        accuracy: of the ID images, percent.
        summaries: detector -> what it says of its fit.
        config: of the run, YAML.
        costs: detector -> forward passes per image beyond the shared one.

    Returns:
        The pictures, then the page.
    """
    folder = Path(run_dir) / "report"
    pictures = write_pictures(without_csid(scores), without_csid(metrics), folder)
    page = folder / "index.html"
    title = f"Out-of-distribution detection: {Path(run_dir).resolve().name}"
    text = render_page(
        metrics, pictures, accuracy=accuracy, summaries=summaries, config=config, title=title, costs=costs
    )
    page.write_text(text, encoding="utf-8")
    return [*pictures, page]
