"""Logs the results of a run: everything to Weights & Biases, scalars to other loggers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.report import wandb_run
from lightning_ood.report.doubts import Doubts
from lightning_ood.report.mistakes import Read
from lightning_ood.report.table import MEAN

_LOGGED = ("auroc", "fpr95")


def scalars(metrics: pd.DataFrame, accuracy: float | None = None) -> dict[str, float]:
    """Returns the logged scalars in percent, under stable keys.

    The keys are ``auroc/<set>/<detector>``, ``fpr95/mean-<group>/<detector>``, ``accuracy/id``, and ``accuracy/<set>``
    for covariate-shifted ID sets (from ``metrics.attrs``).
    """
    values: dict[str, float] = {
        f"accuracy/{name}": share for name, (_, share) in metrics.attrs.get("shifted", {}).items() if share is not None
    }
    if accuracy is not None:
        values["accuracy/id"] = accuracy
    for row in metrics.to_dict("records"):
        name_of_set = f"{MEAN}-{row['group']}" if row["dataset"] == MEAN else row["dataset"]
        values.update({f"{name}/{name_of_set}/{row['detector']}": row[name] for name in _LOGGED})
    return values


def log_run(
    loggers: Any,
    metrics: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    accuracy: float | None,
    pictures: Iterable[Path] = (),
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    doubts: Doubts | None = None,
    read: Read | None = None,
    files: Iterable[Path] = (),
) -> None:
    """Logs a tested run; a failing logger causes a warning and does not stop the run.

    Every logger gets :func:`scalars`. A ``WandbLogger`` also gets, in the same step, the tables ``metrics`` (with the
    number of each detector's doubts) and ``doubts`` (their sentences, where there are any), a histogram
    ``scores/<set>/<detector>`` per set, curves ``roc/<set>``, charts ``norm_ratio/<detector>``, the table ``examples``
    of the worst mistakes as thumbnails and the plots ``report/<name>``; in its summary the last values and the results
    of the fits as ``fit/<detector>/<key>``; and the files as an artifact.

    Args:
        loggers: one or several Lightning loggers; call this on rank 0 only.
        metrics: result of ``summarise``.
        scores: table of scores.
        accuracy: accuracy on the ID images in percent.
        pictures: files of the report; only PNG files are logged.
        summaries: detector -> summary of its fit.
        doubts: detector -> what is doubtful about its row.
        read: reads an image of the table.
        files: files of the run for the artifact.
    """
    pictures, files = list(pictures), list(files)
    for logger in loggers if isinstance(loggers, (list, tuple)) else [loggers]:
        with warn_on_failure(logger):
            values = scalars(metrics, accuracy)
            if not _is_wandb(logger):
                logger.log_metrics(values)
                logger.save()
            elif not logger.experiment.disabled:
                parts = wandb_run.parts(metrics, scores, pictures, summaries or {}, read, doubts or {})
                for problem in wandb_run.log(logger.experiment, values, parts):
                    _warn(logger, problem)
                wandb_run.log_summaries(logger.experiment, summaries or {})
                wandb_run.log_files(logger, "scores", files)


def log_checkpoint(loggers: Any, path: Path) -> None:
    """Logs a checkpoint as an artifact of each ``WandbLogger``; a failure causes a warning and does not stop the run.

    A file larger than :data:`wandb_run.LIMIT` is uploaded only where the logger's ``log_model`` is set, and otherwise
    logged as a reference with its path, size and checksum.
    """
    for logger in loggers:
        with warn_on_failure(logger):
            if _is_wandb(logger) and not logger.experiment.disabled:
                wandb_run.log_files(logger, "checkpoint", [path])


@contextmanager
def warn_on_failure(logger: Any, told: bool = True) -> Iterator[None]:
    """Reports a logger's failure as a warning, if ``told``; the run continues, its own files are on disk."""
    try:
        yield
    except Exception as error:
        if told:
            _warn(logger, error)


def _is_wandb(logger: Any) -> bool:
    return any(base.__name__ == "WandbLogger" for base in type(logger).__mro__)


def _warn(logger: Any, error: Exception) -> None:
    message = f"{type(error).__name__}: {error}"
    name = type(logger).__name__
    print(f"warning: {name} failed ({message}); the run continues and its own files are complete", file=sys.stderr)
