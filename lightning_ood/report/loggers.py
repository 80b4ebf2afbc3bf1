"""The numbers of a run for its loggers: Weights & Biases gets everything, the others the scalars."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.report import wandb_run
from lightning_ood.report.mistakes import Read
from lightning_ood.report.table import MEAN

_LOGGED = ("auroc", "fpr95")


def scalars(metrics: pd.DataFrame, accuracy: float | None = None) -> dict[str, float]:
    """Stable keys, in percent: ``auroc/<set>/<detector>``, ``fpr95/mean-<group>/<detector>``, ``accuracy/id``.

    The accuracy on covariate-shifted ID sets, which ``metrics.attrs`` hold, is ``accuracy/<set>``.
    """
    values: dict[str, float] = {
        f"accuracy/{name}": share for name, (_, share) in metrics.attrs.get("shifted", {}).items() if share is not None
    }
    if accuracy is not None:
        values["accuracy/id"] = accuracy
    for row in metrics.to_dict("records"):
        where = f"{MEAN}-{row['group']}" if row["dataset"] == MEAN else row["dataset"]
        values.update({f"{name}/{where}/{row['detector']}": row[name] for name in _LOGGED})
    return values


def log_run(
    loggers: Any,
    metrics: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    accuracy: float | None,
    pictures: Iterable[Path] = (),
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    read: Read | None = None,
    files: Iterable[Path] = (),
) -> None:
    """Logs a tested run; a logger that fails is told of and stops nothing.

    Every logger gets :func:`scalars`. A ``WandbLogger`` also gets, in the same step, the table ``metrics``, a histogram
    ``scores/<set>/<detector>`` of each set, curves ``roc/<set>``, charts ``norm_ratio/<detector>``, the table
    ``examples`` of the worst mistakes as thumbnails and the pictures ``report/<name>``; in its summary the last values,
    the groups' means among them, and what the fits found as ``fit/<detector>/<what>``; and the files as an artifact.

    Args:
        loggers: a Lightning logger or several; called on the first process only.
        metrics: what ``summarise`` gave.
        scores: table of scores.
        accuracy: of the ID images, percent.
        pictures: files of the report; those that are no PNG are left out.
        summaries: detector -> what it says of its fit.
        read: how an image of the table is read.
        files: of the run, for the artifact.
    """
    pictures, files = list(pictures), list(files)
    for logger in loggers if isinstance(loggers, (list, tuple)) else [loggers]:
        with telling(logger):
            values = scalars(metrics, accuracy)
            if not _is_wandb(logger):
                logger.log_metrics(values)
                logger.save()
            elif not logger.experiment.disabled:
                parts = wandb_run.parts(metrics, scores, pictures, summaries or {}, read)
                for problem in wandb_run.log(logger.experiment, values, parts):
                    _tell(logger, problem)
                wandb_run.say_of_fits(logger.experiment, summaries or {})
                wandb_run.keep(logger, "scores", files)


def log_checkpoint(loggers: Any, path: Path) -> None:
    """Keeps what ``fit`` saved as an artifact of each ``WandbLogger``; a failure is told of and stops nothing.

    A file above :data:`wandb_run.LIMIT` is uploaded where the logger's ``log_model`` asks for it, and otherwise a
    reference: where it lies, its size and its checksum.
    """
    for logger in loggers:
        with telling(logger):
            if _is_wandb(logger) and not logger.experiment.disabled:
                wandb_run.keep(logger, "checkpoint", [path])


@contextmanager
def telling(logger: Any) -> Iterator[None]:
    """Tells of what a logger fails at: a run, whose own files are on disk, does not stop for it."""
    try:
        yield
    except Exception as error:
        _tell(logger, error)


def _is_wandb(logger: Any) -> bool:
    return any(base.__name__ == "WandbLogger" for base in type(logger).__mro__)


def _tell(logger: Any, error: Exception) -> None:
    said = f"{type(error).__name__}: {error}"
    print(f"warning: {type(logger).__name__} failed ({said}); the run and its own files do without it", file=sys.stderr)
