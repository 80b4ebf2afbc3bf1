"""The numbers of a run for its loggers: Weights & Biases gets everything, the others the scalars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_ood.report.table import MEAN, detectors_of

_LOGGED = ("auroc", "fpr95")
_BINS = 64


def scalars(metrics: pd.DataFrame, accuracy: float | None = None) -> dict[str, float]:
    """Stable keys, in percent: ``auroc/<set>/<detector>``, ``fpr95/mean-<group>/<detector>``, ``accuracy/id``."""
    values = {} if accuracy is None else {"accuracy/id": accuracy}
    for row in metrics.to_dict("records"):
        where = f"{MEAN}-{row['group']}" if row["dataset"] == MEAN else row["dataset"]
        values.update({f"{name}/{where}/{row['detector']}": row[name] for name in _LOGGED})
    return values


def log_run(
    loggers: Any, metrics: pd.DataFrame, scores: pd.DataFrame, *, accuracy: float | None, pictures: Iterable[Path] = ()
) -> None:
    """Logs a tested run.

    Every logger gets :func:`scalars`. A ``WandbLogger`` also gets the table ``metrics``, a histogram
    ``scores/<set>/<detector>`` of each set and the pictures ``report/<name>``, all in one step; the last values, the
    groups' means among them, are in the run's summary.

    Args:
        loggers: a Lightning logger or several; called on the first process only.
        metrics: what ``summarise`` gave.
        scores: table of scores.
        accuracy: of the ID images, percent.
        pictures: files of the report; those that are no PNG are left out.
    """
    for logger in loggers if isinstance(loggers, (list, tuple)) else [loggers]:
        if any(base.__name__ == "WandbLogger" for base in type(logger).__mro__):
            _log_wandb(logger.experiment, metrics, scores, accuracy, pictures)
        else:
            logger.log_metrics(scalars(metrics, accuracy))
            logger.save()


def _log_wandb(
    run: Any, metrics: pd.DataFrame, scores: pd.DataFrame, accuracy: float | None, pictures: Iterable[Path]
) -> None:
    import wandb

    content: dict[str, Any] = dict(scalars(metrics, accuracy))
    content["metrics"] = wandb.Table(columns=list(metrics.columns), data=metrics.astype(object).to_numpy().tolist())
    for key, counts in _histograms(scores):
        content[key] = wandb.Histogram(np_histogram=counts)
    for path in pictures:
        if path.suffix == ".png":
            content[f"report/{path.stem}"] = wandb.Image(str(path))
    run.log(content)


def _histograms(scores: pd.DataFrame) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Counts of each set's scores; one detector's sets have the same bins, so that they can be laid over each other."""
    names = scores["dataset"].where(scores["role"] == "ood", "id").to_numpy()
    for detector in detectors_of(scores):
        values = scores[detector].to_numpy(dtype=np.float64)
        edges = np.histogram_bin_edges(values, _BINS)
        for name in pd.unique(names):
            yield f"scores/{name}/{detector}", np.histogram(values[names == name], edges)
