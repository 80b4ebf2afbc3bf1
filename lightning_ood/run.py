"""A run from start to end: train what is to be trained, fit, save; load, score, report. The command line calls this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.errors import InputError
from lightning_ood.module import OODModule
from lightning_ood.report import (
    accuracy,
    log_run,
    print_table,
    summarise,
    training_auroc,
    write_metrics,
    write_report,
    write_scores,
)
from lightning_ood.scoring import ScoringCallback

STATE = "ScoringCallback"


def fit(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    scoring: ScoringCallback,
    folder: Path,
    recipe: str = "",
    overwrite: bool = False,
) -> Path:
    """Trains the network if it is to be trained, fits every detector in one pass, saves both.

    Args:
        trainer: with ``scoring`` among its callbacks.
        module: the network.
        data: its ID training images are fitted on.
        scoring: the detectors.
        folder: of the run.
        recipe: what the training depends on; a second fit with the same recipe takes the trained weights over.
        overwrite: train again although the folder holds weights that were trained by another recipe.

    Returns:
        ``folder/checkpoints/last.ckpt``.

    Raises:
        InputError: if the trainer cannot make one exact pass, or a detector's fit is not finite (the others' are
            saved before).
    """
    _check_exact(trainer)
    if module.trains != "nothing":
        _train(trainer, module, data, folder / "checkpoints" / "trained.ckpt", recipe, overwrite)
    scoring.reset()
    say(f"Fitting {', '.join(scoring.fitting) or 'no detector: none of them needs it'}")
    if scoring.fitting:
        trainer.validate(module, datamodule=data, verbose=False)
        assert data.train_set is not None
        seen = scoring.finish_fit(trainer.strategy.root_device, len(data.train_set))
        left_out = len(data.train_set) - seen
        say(f"Fitted on {seen} images" + (f"; {left_out} unreadable ones were left out" if left_out else ""))
    else:
        trainer.strategy.connect(module)  # nothing ran: the checkpoint still wants to know the module
    broken = scoring.unfit()
    path = _save(trainer, folder / "checkpoints" / "last.ckpt")
    if broken:
        raise InputError(
            f"the fit of {'; '.join(broken)} is not a number. The other detectors' fit is saved in {path}; look for "
            "non-finite features, or leave the detector out"
        )
    return path


def _check_exact(trainer: L.Trainer) -> None:
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "this strategy starts its processes by spawn or fork and leaves what they fitted in them: use "
            "`--trainer.strategy ddp`"
        )
    limits = {name: getattr(trainer, name) for name in ("limit_val_batches", "limit_test_batches")}
    shortened = [f"{name} {value}" for name, value in limits.items() if isinstance(value, int) or value < 1]
    if shortened:
        raise InputError(
            f"{', '.join(shortened)}: fast_dev_run, overfit_batches and limit_*_batches would shorten the fit and the "
            "test in silence; give shorter sets instead (an image list)"
        )


def _train(
    trainer: L.Trainer, module: OODModule, data: OODDataModule, path: Path, recipe: str, overwrite: bool
) -> None:
    if path.is_file():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved.get("recipe") == recipe:
            module.load_state_dict(saved["state_dict"])
            say(f"Taking over the weights trained before ({path})")
            return
        if not overwrite:
            raise InputError(
                f"{path} was trained with another model, data or optimiser setting. Give --overwrite to train again, "
                "or another --trainer.default_root_dir to keep it"
            )
    trainer.fit(module, datamodule=data)
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
    if best:
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"], strict=False)
        say(f"Taking the best epoch's weights ({best})")
    if trainer.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {key: value.cpu() for key, value in module.state_dict().items()}
        torch.save({"state_dict": weights, "recipe": recipe}, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    trainer.strategy.barrier()


def _save(trainer: L.Trainer, path: Path) -> Path:
    partial = path.with_suffix(".partial")
    trainer.save_checkpoint(partial, weights_only=False)
    if trainer.is_global_zero:
        partial.replace(path)
    trainer.strategy.barrier()
    return path


def load(path: Path, module: OODModule, scoring: ScoringCallback) -> None:
    """Takes over what ``fit`` saved: trained weights and fitted detectors.

    Raises:
        InputError: if the file was fitted with another backbone, or lacks a detector.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        backbone, state = saved["backbone"], saved["callbacks"][STATE]
    except (KeyError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path} is no checkpoint that `fit` wrote: {error}") from error
    if module.trains != "nothing":
        missing = module.load_state_dict(saved["state_dict"], strict=False).missing_keys
        if missing:
            raise InputError(f"{path} holds the fit of {backbone['source']}, which lacks {missing[0]}; run fit again")
    if backbone["hash"] != module.weights_hash():
        raise InputError(
            f"{path} was fitted on {backbone['source']} (weights {backbone['hash'][:12]}), and the network now is "
            f"{module.source} (weights {module.weights_hash()[:12]}): run fit again, or give the weights it was made of"
        )
    scoring.load_state_dict(state)


def test(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    scoring: ScoringCallback,
    folder: Path,
    checkpoint: Path | None = None,
    config: str = "",
    command: str = "python train.py fit --config …",
) -> pd.DataFrame | None:
    """Scores every test image once with every detector; writes, prints and logs the table.

    Args:
        trainer: with ``scoring`` among its callbacks.
        module: the network.
        data: its ID and OOD test sets are scored.
        scoring: the detectors.
        folder: of the run.
        checkpoint: what ``fit`` saved; ``folder/checkpoints/last.ckpt`` where None.
        config: the resolved configuration, for the report.
        command: what to run where a fit is needed, for the error.

    Returns:
        metrics.csv as a table, on the first process; None on the others.

    Raises:
        InputError: if a fit is needed and missing, or a score is not finite (the other detectors' scores and table
            are written before).
    """
    _check_exact(trainer)
    checkpoint = checkpoint or folder / "checkpoints" / "last.ckpt"
    if checkpoint.is_file():
        load(checkpoint, module, scoring)
    elif scoring.fitting or module.trains != "nothing":
        what = ", ".join(scoring.fitting) or "the network"
        raise InputError(f"{what} must be fitted first, and there is no {checkpoint}. Run: {command}")
    trainer.test(module, datamodule=data, verbose=False)
    rows, scores = scoring.finish_test(trainer.strategy.root_device)
    if not trainer.is_global_zero:
        return None
    table = _table(rows.numpy(), scores.numpy(), list(scoring.detectors), data)
    return _report(table, trainer, scoring, folder, config)


def _table(rows: Any, scores: Any, detectors: list[str], data: OODDataModule) -> pd.DataFrame:
    """The rows of scores.parquet."""
    parts = []
    for number, entry in enumerate(data.sets.values()):
        at = rows[:, 0] == number
        index, label, prediction = rows[at, 1], pd.array(rows[at, 2], dtype="Int64"), rows[at, 3]
        label[label < 0] = pd.NA
        left_out = len(entry.images) - len(index)
        if left_out:
            say(f"{entry.name}: {left_out} of {len(entry.images)} images were unreadable and are left out")
        if len(index) == 0:
            raise InputError(f"{entry.name}: none of its {len(entry.images)} images could be read")
        paths = [entry.images.paths[i] for i in index]
        columns = {"dataset": entry.name, "role": entry.role, "group": entry.group, "index": index, "path": paths}
        part = pd.DataFrame({**columns, "label": label, "prediction": prediction})
        parts.append(part.assign(**{name: scores[at, i] for i, name in enumerate(detectors)}))
    return pd.concat(parts, ignore_index=True)


def _report(
    table: pd.DataFrame, trainer: L.Trainer, scoring: ScoringCallback, folder: Path, config: str
) -> pd.DataFrame:
    broken = {}
    for name in scoring.detectors:
        bad = table[~table[name].abs().lt(float("inf"))]
        if len(bad):
            first = bad.iloc[0]
            broken[name] = f"detector {name!r} on {first['dataset']}, image {first['index']}"
            broken[name] += f" ({first['path']})" if first["path"] else ""
            broken[name] += f": {first[name]} ({len(bad)} of {len(table)} scores are not finite)"
    table = table.drop(columns=list(broken))
    write_scores(table, folder)
    if len(broken) == len(scoring.detectors):
        raise InputError("; ".join(broken.values()))
    metrics = summarise(table)
    write_metrics(metrics, folder)
    correct = accuracy(table)
    print_table(metrics, correct)
    summaries = _summaries(table, scoring)
    pictures = write_report(folder, table, metrics, accuracy=correct, summaries=summaries, config=config)
    for logger in trainer.loggers:
        log_run(logger, metrics, table, accuracy=correct, pictures=pictures)
    where = f"Scores, table and pictures are in {folder}"
    runs = [str(run) for logger in trainer.loggers if (run := getattr(logger, "save_dir", None))]
    say(where + (f"; the logger's run is in {', '.join(runs)}" if runs else ""))
    if broken:
        raise InputError("; ".join(broken.values()) + f". The other detectors' scores and table are in {folder}")
    return metrics


def _summaries(table: pd.DataFrame, scoring: ScoringCallback) -> dict[str, dict[str, Any]]:
    """What the report says of each detector's fit."""
    known = table[table["role"] == "id"]
    return {
        name: {**scoring.detectors[name].summary(fitted), **training_auroc(fitted, known[name].to_numpy())}
        for name in scoring.detectors
        if name in table
        for fitted in (scoring.fitted.get(name, {}),)
    }


@rank_zero_only
def say(text: str) -> None:
    """One line for the user, from the first process."""
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(text, markup=False)
