"""Turns a table of scores into metrics, a terminal table, plots, an HTML page and logged results."""

from lightning_ood.report.console import print_table
from lightning_ood.report.loggers import log_run, scalars, warn_on_failure
from lightning_ood.report.mistakes import Read, reader
from lightning_ood.report.overfitting import training_auroc
from lightning_ood.report.publish import write_report
from lightning_ood.report.run_results import RunResults
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
    "RunResults",
    "accuracy",
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
