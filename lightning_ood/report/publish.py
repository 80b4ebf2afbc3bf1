"""Writes, prints and logs the results of a run, from its table of scores alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report import (
    Read,
    accuracy,
    log_run,
    print_table,
    summarise,
    without_csid,
    write_metrics,
    write_report,
)
from lightning_ood.report.doubts import read_doubts, write_doubts

_LOGGED = ("scores.parquet", "metrics.csv", "doubts.csv", "config.test.yaml", "report/index.html")


def publish(
    table: pd.DataFrame,
    folder: Path,
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    config: str = "",
    loggers: Iterable[Any] = (),
    costs: Mapping[str, Mapping[str, int]] | None = None,
    read: Read | None = None,
    trapezoid: bool = False,
    doubts: Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Writes metrics.csv, prints the table, writes pictures and page, logs to the loggers.

    Args:
        table: of scores, a row per test image.
        folder: the run's output directory.
        summaries: detector -> summary of its fit; those of the run's last report where None.
        config: the resolved configuration, YAML.
        loggers: Lightning's.
        costs: detector -> forward passes per image beyond the shared one; likewise.
        read: reads an image of the table, for thumbnails.
        trapezoid: adds AUPR by trapezoids to metrics.csv.
        doubts: detector -> what is doubtful about its row; those of the run's last test where None.
        classes: names of the classes by label; those of the run's last report where ``summaries`` is None.

    Returns:
        metrics.csv as a table.
    """
    metrics = summarise(table, trapezoid=trapezoid)
    write_metrics(metrics, folder)
    correct = accuracy(table)
    if doubts is not None:
        write_doubts(doubts, folder)
    doubts = {name: said for name, said in read_doubts(folder).items() if name in table}
    print_table(metrics, correct, costs=costs, doubts=doubts)
    pictures = write_report(
        folder,
        table,
        metrics,
        accuracy=correct,
        summaries=summaries,
        config=config,
        costs=costs,
        read=read,
        doubts=doubts,
        classes=classes,
    )
    runs = []
    for logger in loggers:
        log_run(
            logger,
            metrics,
            without_csid(table),
            accuracy=correct,
            pictures=pictures,
            summaries=summaries,
            doubts=doubts,
            read=read,
            files=[folder / name for name in _LOGGED],
        )
        runs.append(str(getattr(logger, "save_dir", None) or type(logger).__name__))
    where = f"Scores, table and pictures are in {folder}"
    rank_zero_print(where + (f"; the logger's run is in {', '.join(runs)}" if runs else ""))
    return metrics
