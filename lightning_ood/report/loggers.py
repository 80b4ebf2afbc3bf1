"""Logs the results of a run: the same scalars to every logger, pictures and files to those that take them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lightning_ood.report import wandb_artifacts, wandb_run
from lightning_ood.report.doubts import by_sentence
from lightning_ood.report.fit_record import FitRecord, read_record, write_record
from lightning_ood.report.fits import Summaries
from lightning_ood.report.keys import keys, plain
from lightning_ood.report.run_results import RunResults
from lightning_ood.report.table import INTERVALS, MEAN

_LOGGED = ("auroc", "fpr95", *INTERVALS)
_MLFLOW_BATCH = 500  # metrics of one call; MLflow takes 1000


def scalars(metrics: pd.DataFrame, accuracy: float | None = None) -> dict[str, float]:
    """Returns the logged metrics in percent, under stable keys.

    The keys are ``auroc/<set>/<detector>``, ``fpr95/mean-<group>/<detector>``, the ends of their 95 % intervals as
    ``auroc_low/…``, ``auroc_high/…``, ``fpr95_low/…`` and ``fpr95_high/…``, ``accuracy/id``, and ``accuracy/<set>`` for
    covariate-shifted ID sets (from ``metrics.attrs``).
    """
    shifted = {name: share for name, (_, share) in metrics.attrs.get("shifted", {}).items() if share is not None}
    values = {f"accuracy/{key}": shifted[name] for name, key in keys(shifted).items()}
    if accuracy is not None:
        values["accuracy/id"] = accuracy
    of_mean = metrics["dataset"] == MEAN
    sets = metrics["dataset"].astype(str).where(~of_mean, f"{MEAN}-" + metrics["group"].astype(str))
    set_keys, detector_keys = keys(sets), keys(metrics["detector"])
    for name_of_set, row in zip(sets, metrics.to_dict("records"), strict=True):
        where = f"{set_keys[name_of_set]}/{detector_keys[row['detector']]}"
        values.update({f"{name}/{where}": row[name] for name in _LOGGED})
    return values


def fit_facts(summaries: Summaries) -> dict[str, str | float]:
    """Returns results of each fit (thresholds, chosen blocks) as ``fit/<detector>/<key>``; curves are plotted."""
    names = keys(summaries)
    return {
        f"fit/{names[detector]}/{plain(key)}": value
        for detector, summary in summaries.items()
        for key, value in summary.items()
        if isinstance(value, (str, int, float))
    }


def log_run(loggers: Any, results: RunResults, pictures: Iterable[Path] = (), files: Iterable[Path] = ()) -> None:
    """Logs a tested run; a failing logger causes a warning and does not stop the run.

    Every logger gets :func:`scalars`, the measured cost ``cost/…`` of test and fit, and :func:`fit_facts`, numbers
    through its ``log_metrics``. A ``WandbLogger`` also gets what :mod:`lightning_ood.report.wandb_run` names, and the
    checkpoint that ``fit`` logged as an input, an ``MLFlowLogger`` the pictures and the files, a ``TensorBoardLogger``
    the pictures and the doubts as text.

    Args:
        loggers: one or several Lightning loggers; call this on rank 0 only.
        results: of the run.
        pictures: files of the report; only PNG files are logged.
        files: files of the run.
    """
    pictures, files = [path for path in pictures if path.suffix == ".png"], [path for path in files if path.is_file()]
    fit = FitRecord() if results.checkpoint is None else read_record(results.checkpoint.parent.parent)
    values = {**scalars(results.metrics, results.accuracy), **fit.usage, **results.usage}
    for logger in loggers if isinstance(loggers, (list, tuple)) else [loggers]:
        with warn_on_failure(logger):
            _log_use(logger, results.checkpoint, fit)
        with warn_on_failure(logger):
            _log(logger, results, values, pictures, files)


def _log(
    logger: Any, results: RunResults, values: Mapping[str, float], pictures: Sequence[Path], files: Sequence[Path]
) -> None:
    facts = fit_facts(results.summaries)
    if not _is(logger, "WandbLogger"):
        numbers = {key: float(value) for key, value in facts.items() if not isinstance(value, str)}
        _log_metrics(logger, {**values, **numbers})
        if _is(logger, "MLFlowLogger"):
            for path in [*files, *pictures]:
                logger.experiment.log_artifact(logger.run_id, str(path), "report" if path.suffix == ".png" else None)
        elif _is(logger, "TensorBoardLogger"):
            _log_to_tensorboard(logger.experiment, results, pictures)
        logger.finalize("success")  # Lightning ended it with the pass: what came after has to reach the disk, too
    elif not logger.experiment.disabled:
        for problem in wandb_run.log(logger.experiment, values, wandb_run.parts(results, pictures)):
            _warn(logger, problem)
        logger.experiment.summary.update(facts)
        wandb_run.alert(logger.experiment, results.doubts)
        wandb_artifacts.log_files(logger, "scores", files)


def _log_metrics(logger: Any, values: Mapping[str, float]) -> None:
    """Logs values in one call, or in as many as MLflow needs."""
    left = iter(values.items())
    while part := dict(islice(left, _MLFLOW_BATCH if _is(logger, "MLFlowLogger") else None)):
        logger.log_metrics(part)


def _log_to_tensorboard(writer: Any, results: RunResults, pictures: Sequence[Path]) -> None:
    for path in pictures:
        writer.add_image(f"report/{path.stem}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
    if said := by_sentence(results.doubts):
        writer.add_text("doubts", "\n".join(f"- {', '.join(names)}: {doubt}" for doubt, names in said.items()))


def log_fit(loggers: Iterable[Any], checkpoint: Path, usage: Mapping[str, float]) -> None:
    """Logs a fit: its cost to every logger, its checkpoint to W&B; and leaves a record of both in the run's folder.

    A checkpoint larger than :data:`wandb_artifacts.LIMIT` is uploaded only where the logger's ``log_model`` is set, and
    otherwise logged as a reference with its path, size and checksum. A failure causes a warning and does not stop the
    run.

    Args:
        loggers: Lightning's; call this on rank 0 only.
        checkpoint: ``checkpoints/last.ckpt`` of the run's folder.
        usage: measured cost, ``cost/fit_seconds`` and the like -> value; empty where nothing was fitted, and the cost
            of the earlier fit stays in the record.
    """
    run_dir = checkpoint.parent.parent
    record = FitRecord(usage or read_record(run_dir).usage)
    for logger in loggers:
        with warn_on_failure(logger):
            _log_metrics(logger, usage)
            if not _is(logger, "WandbLogger"):
                logger.finalize("success")
            elif not logger.experiment.disabled:
                name = wandb_artifacts.log_files(logger, "checkpoint", [checkpoint])
                record = replace(record, run_id=record.run_id or logger.experiment.id, artifact=record.artifact or name)
    write_record(run_dir, record)


def _log_use(logger: Any, checkpoint: Path | None, fit: FitRecord) -> None:
    """Names the checkpoint that ``fit`` logged as an input of the test's run, in a ``WandbLogger``."""
    if checkpoint is not None and fit.artifact and _is(logger, "WandbLogger") and not logger.experiment.disabled:
        wandb_artifacts.use_checkpoint(logger, checkpoint, fit)


@contextmanager
def warn_on_failure(logger: Any, told: bool = True) -> Iterator[None]:
    """Reports a logger's failure as a warning, if ``told``; the run continues, its own files are on disk."""
    try:
        yield
    except Exception as error:
        if told:
            _warn(logger, error)


def _is(logger: Any, kind: str) -> bool:
    """Returns True for one of Lightning's loggers, by the name of its class: this wing does not know Lightning."""
    return any(base.__name__ == kind for base in type(logger).__mro__)


def _warn(logger: Any, error: Exception) -> None:
    message = f"{type(error).__name__}: {error}"
    name = type(logger).__name__
    print(f"warning: {name} failed ({message}); the run continues and its own files are complete", file=sys.stderr)
