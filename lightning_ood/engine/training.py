"""Training a network before detectors are fitted: goes on after a death, keeps the best epoch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run_dir import RunFolder, read_checkpoint
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print


def train(
    trainer: L.Trainer, module: OODModule, data: OODDataModule, folder: RunFolder, recipe: str, overwrite: bool
) -> None:
    """Leaves trained weights in the module and in ``folder.trained``.

    Weights that the same recipe gave before are taken over; a training of the same recipe that died goes on after its
    last whole epoch, as if it had not died. A ``ModelCheckpoint`` among the trainer's callbacks chooses the epoch,
    otherwise the last one counts.

    Args:
        trainer: of the run.
        module: its ``finetune`` says what is trained.
        data: its ID training images, and ID validation images where there are some.
        folder: of the run.
        recipe: what the training depends on.
        overwrite: train from the start whatever the folder holds.

    Raises:
        InputError: if the folder holds weights, or an unfinished training, of another recipe or number of processes.
    """
    before = {} if overwrite else _before(folder, recipe)
    if folder.trained in before and folder.training not in before:
        module.load_state_dict(before[folder.trained]["state_dict"])
        rank_zero_print(f"Taking over the weights trained before ({folder.trained})")
        return
    if folder.training in before:
        _check_processes(before[folder.training]["processes"], trainer.world_size, folder.training)
        epochs = before[folder.training]["epoch"] + 1
        rank_zero_print(f"Going on with the training after epoch {epochs} of {trainer.max_epochs} ({folder.training})")
    _train(trainer, module, data, folder, recipe, folder.training if folder.training in before else None)
    if trainer.is_global_zero:
        weights = {key: value.cpu() for key, value in module.state_dict().items()}
        folder.save(folder.trained, lambda file: torch.save({"state_dict": weights, "recipe": recipe}, file))
        folder.training.unlink(missing_ok=True)
    trainer.strategy.barrier()


def _train(
    trainer: L.Trainer, module: OODModule, data: OODDataModule, folder: RunFolder, recipe: str, start: Path | None
) -> None:
    choosing = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    for callback in choosing:
        if callback.dirpath is None:  # one that does not change when a training goes on, whatever the logger's folder
            callback.dirpath = str(folder.training.parent.absolute())
    if start is None and trainer.is_global_zero:
        folder.training.unlink(missing_ok=True)  # overwritten
    each_epoch = EachEpoch(folder, recipe)
    trainer.callbacks.append(each_epoch)  # type: ignore[attr-defined]  # the last one: it saves the others' states too
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    trainer.callbacks.remove(each_epoch)  # type: ignore[attr-defined]
    best = next((callback.best_model_path for callback in choosing), "")
    if best:
        module.load_state_dict(read_checkpoint(Path(best))["state_dict"], strict=False)
        rank_zero_print(f"Taking the best epoch's weights ({best})")


class EachEpoch(Checkpoint):
    """Keeps all that a training needs to go on, at the end of each epoch: one file, replaced when the next is whole.

    Weights, optimiser, schedule, epoch (which gives the order of the images), the other callbacks' choices and the
    state of torch's random numbers (crops, flips, dropout). What draws from numpy's or Python's goes on with others.
    """

    def __init__(self, folder: RunFolder, recipe: str) -> None:
        self.folder, self.recipe = folder, recipe

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After the validation and what other callbacks keep of it."""
        write = partial(trainer.save_checkpoint, weights_only=False)
        self.folder.save(self.folder.training, write, trainer.is_global_zero)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Says whose training this is; detectors, of which none is fitted yet, stay out."""
        checkpoint["callbacks"].pop("ScoringCallback", None)
        checkpoint |= {"recipe": self.recipe, "processes": trainer.world_size}

    def state_dict(self) -> dict[str, Any]:
        """The first process's random numbers; the others draw the same ones."""
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Before the loader of training images draws from them."""
        torch.set_rng_state(state_dict["cpu"])
        if state_dict["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state_dict["cuda"])


def _before(folder: RunFolder, recipe: str) -> dict[Path, dict[str, Any]]:
    """What the folder holds of a training by this recipe."""
    held = {path: read_checkpoint(path) for path in (folder.training, folder.trained) if path.is_file()}
    same = {path: saved for path, saved in held.items() if saved.get("recipe") == recipe}
    if held and not same:
        path = next(iter(held))
        what = "an unfinished training" if path == folder.training else "weights"
        raise InputError(
            f"{path} holds {what} of another model, data or optimiser setting. Give --overwrite to train again, "
            "or another --trainer.default_root_dir to keep it"
        )
    return same


def _check_processes(was: int, now: int, path: Path) -> None:
    if was != now:
        raise InputError(
            f"{path} is a training on {was} process{'es' if was > 1 else ''}, now there {'are' if now > 1 else 'is'} "
            f"{now}: its steps and schedule would not be the same. Give --trainer.devices {was}, or --overwrite to "
            "train from the start"
        )
