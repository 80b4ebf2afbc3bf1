"""Writes, prints and logs the results of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.files import write_text
from lightning_ood.report.console import print_table
from lightning_ood.report.loggers import log_run
from lightning_ood.report.mistakes import read_thumbnails, write_mistakes
from lightning_ood.report.page import render_page
from lightning_ood.report.page_data import page_data
from lightning_ood.report.plots import write_pictures
from lightning_ood.report.run_results import RunResults
from lightning_ood.report.table import without_csid, write_metrics

_LOGGED = ("scores.parquet", "metrics.csv", "doubts.csv", "config.test.yaml", "report/index.html")


def publish(results: RunResults, run_dir: Path, loggers: Iterable[Any] = ()) -> pd.DataFrame:
    """Writes metrics.csv, prints the table, writes pictures and page, logs to the loggers.

    Args:
        results: of the run.
        run_dir: its output directory.
        loggers: Lightning's.

    Returns:
        metrics.csv as a table.
    """
    write_metrics(results.metrics, run_dir)
    print_table(results.metrics, results.accuracy, costs=results.costs, doubts=results.doubts)
    pictures = write_report(results, run_dir)
    loggers = list(loggers)
    log_run(loggers, results, pictures, [run_dir / name for name in _LOGGED])
    runs = ", ".join(str(getattr(logger, "save_dir", None) or type(logger).__name__) for logger in loggers)
    where = f"Scores, table and pictures are in {run_dir}"
    rank_zero_print(where + (f"; the logger's run is in {runs}" if runs else ""))
    return results.metrics


def write_report(results: RunResults, run_dir: Path) -> list[Path]:
    """Writes ``report/*.png`` and ``report/index.html``, one self-contained page.

    Returns:
        Paths of the plots, then of the page.
    """
    folder, classes = run_dir / "report", results.classes
    shown = without_csid(results.scores)
    mistakes, note = write_mistakes(shown, folder, results.read, classes)
    pictures = write_pictures(shown, without_csid(results.metrics), folder, results.summaries, classes)
    data = page_data(shown, read_thumbnails(folder) if mistakes else {}, classes)
    title = f"Out-of-distribution detection: {run_dir.resolve().name}"
    page = render_page(results, data, title=title, note=note)
    return [*pictures, *mistakes, write_text(folder / "index.html", page)]
