"""Artifacts of a run in W&B: the checkpoint of a fit, which its test names as an input, and the files of a test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_ood.report.fit_record import FitRecord
from lightning_ood.report.keys import plain
from lightning_ood.report.private_wandb import uploads_models, use_artifact

LIMIT = 50 * 2**20  # bytes; larger files are uploaded only where log_model is set
_NAME = 128  # letters of an artifact's name, at most


def log_files(logger: Any, kind: str, files: Iterable[Path]) -> str:
    """Logs files as an artifact ``<group>-<kind>``; files above ``LIMIT`` as references unless ``log_model`` is set.

    Args:
        logger: a ``WandbLogger``.
        kind: type of the artifact.
        files: files to log.

    Returns:
        The name of the artifact; empty without files.
    """
    if not (files := list(files)):
        return ""
    run = logger.experiment
    name = plain(f"{run.group or run.id}-{kind}")[:_NAME]
    run.log_artifact(_artifact(logger, name, kind, files))
    return name


def use_checkpoint(logger: Any, checkpoint: Path, record: FitRecord) -> None:
    """Names a checkpoint as an input of the run, unless the same run logged it.

    W&B finds the version that the fit has logged by its content, also when an offline run is uploaded; a checkpoint
    that is not there becomes a new version.

    Args:
        logger: a ``WandbLogger``.
        checkpoint: the file that is tested.
        record: of the fit.
    """
    run = logger.experiment
    if record.run_id != run.id:
        use_artifact(run, _artifact(logger, record.artifact, "checkpoint", [checkpoint]))
        run.config.update({"fit_run": record.run_id}, allow_val_change=True)


def _artifact(logger: Any, name: str, kind: str, files: Iterable[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for path in files:
        if path.stat().st_size <= LIMIT or uploads_models(logger):
            artifact.add_file(str(path), name=path.name)
        else:
            artifact.add_reference(path.absolute().as_uri(), name=path.name)
    return artifact
