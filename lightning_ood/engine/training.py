"""Trains a network before detectors are fitted; resumes after a crash and keeps the best epoch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.fingerprint import Fingerprint, same_images
from lightning_ood.engine.closed_form import fit_head
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run_dir import DamagedError, RunFolder, read_checkpoint, with_checksums
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print


def train(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    folder: RunFolder,
    training_config_hash: str,
    overwrite: bool,
) -> None:
    """Trains the module, or computes its head in closed form, and saves its weights to ``folder.trained``.

    Reuses the weights of a finished training with the same configuration. Resumes an unfinished one after its last
    complete epoch, with the same result as without the interruption. A ``ModelCheckpoint`` among the trainer's
    callbacks chooses the epoch, otherwise the last one counts.

    Args:
        trainer: the trainer of the run.
        module: its ``finetune`` says what is trained.
        data: its ID training images, and ID validation images where there are some.
        folder: the run directory.
        training_config_hash: hash of the configuration that the training depends on.
        overwrite: train from the start even if the run directory holds weights.

    Raises:
        InputError: if ``max_epochs`` is 0, or -1 without another limit; if the folder holds weights, or an unfinished
            training, of another configuration or world size.
    """
    closed_form = module.finetune in ("ridge", "means")
    if trainer.max_epochs == 0 and not closed_form:
        raise InputError("trainer.max_epochs=0 trains nothing: write at least 1, or model.finetune: none")
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if trainer.max_epochs == -1 and trainer.max_steps == -1 and not timed:
        raise InputError("trainer.max_epochs=-1 trains without an end: write at least 1, or set max_steps or max_time")
    images = _images(trainer, module, data)
    before = {} if overwrite else _before(folder, training_config_hash, images, data)
    if folder.trained in before and folder.training not in before:
        module.load_state_dict(before[folder.trained]["state_dict"])
        if before[folder.trained]["images"] != images:  # the same images under new dates
            _save(trainer, folder, {**before[folder.trained], "images": images})
        rank_zero_print(f"Taking over the weights trained before ({folder.trained})")
        return
    if folder.training in before:
        _check_processes(before[folder.training]["processes"], trainer.world_size, folder.training)
        epochs = before[folder.training]["epoch"] + 1
        rank_zero_print(f"Going on with the training after epoch {epochs} of {trainer.max_epochs} ({folder.training})")
    elif trainer.is_global_zero:  # the others save nothing
        for name, entry in images.items():
            entry["content"] = data.content(name, training=True)
    origin = {"training_config_hash": training_config_hash, "images": images}
    if closed_form:
        fit_head(trainer, module, data)
    else:
        _train(trainer, module, data, folder, origin, folder.training if folder.training in before else None)
    _save(trainer, folder, {"state_dict": {key: value.cpu() for key, value in module.state_dict().items()}, **origin})
    if trainer.is_global_zero:
        folder.training.unlink(missing_ok=True)
    trainer.strategy.barrier()


def _save(trainer: L.Trainer, folder: RunFolder, content: dict[str, Any]) -> None:
    """Saves trained weights, on the first process."""
    if trainer.is_global_zero:
        folder.save(folder.trained, partial(torch.save, with_checksums(content)))


def _train(
    trainer: L.Trainer,
    module: OODModule,
    data: OODDataModule,
    folder: RunFolder,
    origin: dict[str, Any],
    start: Path | None,
) -> None:
    choosing = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    for callback in choosing:
        if callback.dirpath is None:  # one that does not change when a training goes on, whatever the logger's folder
            callback.dirpath = str(folder.training.parent.absolute())
    if start is None and trainer.is_global_zero:
        folder.training.unlink(missing_ok=True)  # overwritten
    each_epoch = EachEpoch(folder, origin)
    trainer.callbacks.append(each_epoch)  # type: ignore[attr-defined]  # the last one: it saves the others' states too
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    trainer.callbacks.remove(each_epoch)  # type: ignore[attr-defined]
    best = next((callback.best_model_path for callback in choosing), "")
    if best:
        module.load_state_dict(read_checkpoint(Path(best))["state_dict"], strict=False)
        rank_zero_print(f"Taking the best epoch's weights ({best})")


class EachEpoch(Checkpoint):
    """Saves a resumable checkpoint after each epoch, replacing the previous one atomically.

    It holds weights, optimizer, schedule, epoch (which gives the order of the images), and the states of the other
    callbacks and of torch's random generators (crops, flips, dropout), but not of numpy's or Python's generators.
    """

    def __init__(self, folder: RunFolder, origin: dict[str, Any]) -> None:
        self.folder, self.origin = folder, origin

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the checkpoint, after validation and the other callbacks."""
        write = partial(trainer.save_checkpoint, weights_only=False)
        self.folder.save(self.folder.training, write, trainer.is_global_zero)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds configuration hash, images and world size; leaves out the detectors, none of which is fitted yet."""
        checkpoint["callbacks"].pop("ScoringCallback", None)
        checkpoint |= {**self.origin, "processes": trainer.world_size}

    def state_dict(self) -> dict[str, Any]:
        """Returns the random states of rank 0; all ranks draw the same numbers."""
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the random states, before the training loader draws from them."""
        torch.set_rng_state(state_dict["cpu"])
        if state_dict["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state_dict["cuda"])


def _images(trainer: L.Trainer, module: OODModule, data: OODDataModule) -> Fingerprint:
    """Returns the fingerprint of the images that the training reads."""
    trainer.strategy.connect(module)
    data.trainer = trainer
    data.setup("fit")
    return data.fingerprint(training=True)


def _before(
    folder: RunFolder, training_config_hash: str, images: Fingerprint, data: OODDataModule
) -> dict[Path, dict[str, Any]]:
    """Returns the checkpoints of an earlier training with this configuration on these images: path -> content.

    The content of the images is completed from them. A damaged one is left out, and the user is told.

    Raises:
        InputError: if there are checkpoints, and they are of another configuration or other images.
    """
    stored: dict[Path, dict[str, Any]] = {}
    for path in (folder.training, folder.trained):
        try:
            stored |= {path: read_checkpoint(path)} if path.is_file() else {}
        except DamagedError as error:
            rank_zero_print(f"Training without an earlier checkpoint: {error}")
    same = {path: saved for path, saved in stored.items() if saved.get("training_config_hash") == training_config_hash}
    advice = "Give --overwrite to train again, or another --trainer.default_root_dir to keep it"
    if stored and not same:
        path = next(iter(stored))
        what = "an unfinished training" if path == folder.training else "weights"
        raise InputError(f"{path} holds {what} of another model, data or optimiser setting. {advice}")
    for path, saved in same.items():
        if not same_images(saved.get("images"), images, partial(data.content, training=True)):
            raise InputError(
                f"{path} was trained on other images, labels, class names or another data root than "
                f"{data.root.resolve()} holds now. {advice}"
            )
        for name, entry in saved["images"].items():
            images[name]["content"] = entry["content"]
    return same


def _check_processes(was: int, now: int, path: Path) -> None:
    if was != now:
        raise InputError(
            f"{path} is a training on {was} process{'es' if was > 1 else ''}, now there {'are' if now > 1 else 'is'} "
            f"{now}: its steps and schedule would not be the same. Give --trainer.devices {was}, or --overwrite to "
            "train from the start"
        )
