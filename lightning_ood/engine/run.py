"""A run from start to end: train what is to be trained, fit, save; load, score, report. The command line calls this."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.engine.exact import check_exact, only_ours, unchanged
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.private_lightning import ChildProcesses
from lightning_ood.engine.run_dir import RunFolder, fit_in, read_checkpoint
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.engine.training import train
from lightning_ood.engine.usage import Meter
from lightning_ood.errors import InputError
from lightning_ood.evaluation.result import results_of
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.processes import naming_the_dead
from lightning_ood.report.doubts import print_doubts
from lightning_ood.report.loggers import log_fit
from lightning_ood.report.provenance import network_facts
from lightning_ood.report.results import finish, table_of
from lightning_ood.report.table import limit_line


def fit(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    scoring: ScoringCallback,
    folder: RunFolder,
    training_config_hash: str = "",
    overwrite: bool = False,
) -> Path:
    """Trains the network if it is to be trained, fits every detector in one pass, saves both.

    Reuses what the run directory holds: weights of the same training, fits of detectors with the same arguments on the
    same network and images.

    Args:
        trainer: with ``scoring`` among its callbacks.
        module: the network.
        data: its ID training images are fitted on.
        scoring: the detectors.
        folder: of the run; its ``last`` is returned.
        training_config_hash: hash of the configuration that the training depends on.
        overwrite: train and fit again whatever the folder holds.

    Raises:
        InputError: if the trainer cannot make one exact pass, the folder holds weights of another training, or a
            detector cannot be fitted or its fit is not a number (the others' are saved before).
    """
    check_exact(trainer)
    with _together(trainer), folder.under_way("fit"):
        if module.finetune != "none":
            train(trainer, module, data, folder, training_config_hash, overwrite)
        _prepare(trainer, module, data, scoring, None if overwrite else folder.last)
        with only_ours(trainer):  # also while it is saved: EMA would put other weights in the file
            meter = Meter("fit", trainer.strategy.root_device)
            seen, reasons = _fit_detectors(trainer, module, data, scoring) if scoring.suite.unfitted else (0, {})
            usage = meter.usage(seen) if seen else {}
            wrong = "; ".join(str(reason) for reason in reasons.values())
            if wrong and not scoring.suite.fitted:
                raise InputError(wrong)
            folder.save(folder.last, partial(trainer.save_checkpoint, weights_only=False), trainer.is_global_zero)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            print_doubts(scoring.suite.doubts)
    if wrong:
        raise InputError(f"{wrong}. The other detectors' fit is saved in {folder.last}")
    if trainer.is_global_zero:
        log_fit(trainer.loggers, folder.last, usage)
    return folder.last


def _prepare(
    trainer: L.Trainer, module: OODModule, data: OODDataModule, scoring: ScoringCallback, before: Path | None
) -> None:
    """Brings the parts together; takes over what an earlier fit, if any, need not do again."""
    scoring.leave_out(module)
    trainer.strategy.connect(module)
    trainer.datamodule = data  # type: ignore[attr-defined]  # the names of its classes are saved in any case
    data.trainer = trainer
    data.setup("validate")
    scoring.reset()
    scoring.fingerprint = data.fingerprint()
    if before is not None and before.is_file():
        _keep(before, module, data, scoring, trainer.precision)
    rank_zero_print(f"Fitting {', '.join(scoring.suite.unfitted) or 'no detector: none of them needs it'}")


def _fit_detectors(
    trainer: L.Trainer, module: OODModule, data: OODDataModule, scoring: ScoringCallback
) -> tuple[int, dict[str, InputError]]:
    """Makes one exact pass over the training images; returns their number and why a detector could not be fitted."""
    with unchanged(module, "the fit pass"):
        trainer.validate(module, datamodule=data, verbose=False)
    assert data.train_set is not None
    images = len(data.train_set)
    seen, reasons = scoring.finish_fit(trainer.strategy.root_device, images)
    _say_cached(module)
    rank_zero_print(
        f"Fitted on {seen} images" + (f"; {images - seen} unreadable ones were left out" if seen < images else "")
    )
    if data.limit is not None:
        rank_zero_print(limit_line(data.limit))
    return seen, reasons


def _keep(path: Path, module: OODModule, data: OODDataModule, scoring: ScoringCallback, precision: str) -> None:
    """Takes over from an earlier fit what need not be fitted again."""
    try:
        backbone, state = fit_in(read_checkpoint(path), path)
    except InputError as error:
        rank_zero_print(f"Nothing is kept of an earlier fit, which is going to be replaced: {error}")
        return
    if backbone["hash"] == module.weights_hash() and backbone.get("precision", precision) == precision:
        kept = scoring.keep(state, data.content)
        if kept:
            rank_zero_print(f"Keeping the fit of {', '.join(kept)} ({path}); --overwrite fits them again")


def _say_cached(module: OODModule) -> None:
    cache = module.backbone.cache
    if cache is not None:
        rank_zero_print(
            f"Feature cache {cache.folder}: {cache.hits} batches taken from it, {cache.misses} sent through the network"
        )


def _together(trainer: L.Trainer) -> AbstractContextManager[None]:
    return naming_the_dead(ChildProcesses(trainer), trainer.world_size)


def load(
    path: Path, module: OODModule, data: OODDataModule, scoring: ScoringCallback, precision: str
) -> dict[str, Any]:
    """Takes over what ``fit`` saved: trained weights, the names of the classes and fitted detectors.

    Returns:
        the environment and the fingerprint of the images of the fit, plain values.

    Raises:
        InputError: if the file was fitted with another backbone or in another precision, or lacks a detector.
    """
    saved = read_checkpoint(path)
    backbone, state = fit_in(saved, path)
    if module.finetune != "none":
        try:
            missing = module.load_state_dict(saved["state_dict"], strict=False).missing_keys
        except RuntimeError as error:  # other shapes
            last = str(error).splitlines()[-1].strip()
            raise InputError(
                f"{path} holds the weights of another network than {module.source} ({last}): run fit again"
            ) from error
        if missing:
            raise InputError(f"{path} holds the fit of {backbone['source']}, which lacks {missing[0]}; run fit again")
    if backbone["hash"] != module.weights_hash():
        raise InputError(
            f"{path} was fitted on {backbone['source']} (weights {backbone['hash'][:12]}), and the network now is "
            f"{module.source} (weights {module.weights_hash()[:12]}): run fit again, or give the weights it was made of"
        )
    fitted_in = backbone.get("precision", precision)
    if scoring.suite.requiring_fit and fitted_in != precision:
        raise InputError(
            f"{path} was fitted with --trainer.precision {fitted_in}, and this run has {precision}: the features "
            "differ by more than some detectors bear. Give both the same"
        )
    _check_limit(path, saved, module, data, scoring)
    data.load_state_dict(saved.get("OODDataModule", {}))
    scoring.leave_out(module)
    scoring.load_state_dict(state)
    return {"environment": saved.get("environment"), "images": state.get("images")}


def _check_limit(
    path: Path, saved: dict[str, Any], module: OODModule, data: OODDataModule, scoring: ScoringCallback
) -> None:
    """Refuses a fit on a part of the images for a test on another part, or on all."""
    was = saved.get("OODDataModule", {}).get("limit")
    if was is not None and was != data.limit and (scoring.suite.requiring_fit or module.finetune != "none"):
        raise InputError(
            f"{path} was fitted with data.limit {was}, and this run has data.limit {data.limit or 'null'}: run fit "
            f"again with the same, or give --data.limit {was}"
        )


def test(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    scoring: ScoringCallback,
    folder: RunFolder,
    checkpoint: Path | None = None,
    config: str = "",
    command: str = "python train.py fit --config …",
    called: str = "",
) -> pd.DataFrame | None:
    """Scores every test image once with every detector; writes, prints and logs the table.

    Args:
        trainer: with ``scoring`` among its callbacks.
        module: the network.
        data: its ID and OOD test sets are scored.
        scoring: the detectors.
        folder: of the run.
        checkpoint: what ``fit`` saved; ``folder.last`` where None.
        config: the resolved configuration, for the report.
        command: what to run where a fit is needed, for the error.
        called: the command line of this test, for the provenance.

    Returns:
        metrics.csv as a table, on the first process; None on the others.

    Raises:
        InputError: if a fit is needed and missing, or a score is not finite (the other detectors' scores and table
            are written before).
    """
    check_exact(trainer)
    with _together(trainer), folder.under_way("test"):
        checkpoint = checkpoint or folder.last
        fitted = _restore(checkpoint, module, data, scoring, trainer.precision, command)
        meter = Meter("test", trainer.strategy.root_device)
        with unchanged(module, "the test"):
            trainer.test(module, datamodule=data, verbose=False)
        _say_cached(module)
        rows, scores = scoring.finish_test(trainer.strategy.root_device)
        if not trainer.is_global_zero:
            return None
        usage = meter.usage(len(rows))
        table = table_of(rows.numpy(), scores.numpy(), list(scoring.suite.detectors), data)
        results = results_of(table, scoring.suite, config=config, usage=usage, checkpoint=checkpoint)
        about = network_facts(module.source, module.weights_hash())
        about |= {"fitted_on": scoring.fingerprint.get("fit", {}).get("content", ""), "fit": fitted, "command": called}
        about |= {} if data.limit is None else {"limit": data.limit}
        return finish(results, folder.path, scoring.suite.fitted, trainer.loggers, data, about)


def _restore(
    path: Path, module: OODModule, data: OODDataModule, scoring: ScoringCallback, precision: str, command: str
) -> dict[str, Any]:
    scoring.leave_out(module)
    if path.is_file():
        return load(path, module, data, scoring, precision)
    if scoring.suite.requiring_fit or module.finetune != "none":
        what = ", ".join(scoring.suite.requiring_fit) or "the network"
        raise InputError(f"{what} must be fitted first, and there is no {path}. Run: {command}")
    return {}
