"""What makes a pass exact: each image once, one network, and no callback that changes either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lightning_ood.engine.launch import check_precision
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.private_lightning import forks
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.ops.processes import rank


@contextmanager
def only_ours(trainer: L.Trainer, *others: L.Callback) -> Iterator[None]:
    """Leaves out the user's callbacks: those of a training (EMA, BatchSizeFinder) act in every validation loop.

    Args:
        trainer: its callbacks are restored afterwards.
        *others: callbacks that take part besides the scoring and the progress bar.
    """
    everyone = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [one for one in everyone if isinstance(one, ScoringCallback | ProgressBar)] + list(others)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks = everyone  # type: ignore[attr-defined]


@contextmanager
def unchanged(module: OODModule, doing: str) -> Iterator[None]:
    """Compares the network's weights before and after a pass.

    Raises:
        InputError: if they differ.
    """
    before = module.weights_hash()
    yield
    if module.weights_hash() != before:
        raise InputError(
            f"the network's weights or buffers changed during {doing}, so its images did not meet one network: take "
            "out the callback, or the part of the network's forward, that writes to them in eval mode"
        )


def check_exact(trainer: L.Trainer) -> None:
    """Refuses a trainer that would not read each image once, with the network's own weights.

    Raises:
        InputError: if the trainer forks its processes, shortens its loops or casts weights, or if this process is the
            only one of the run and the environment gives it another rank than 0, with which it would write nothing.
    """
    check_precision(trainer.precision)
    if trainer.world_size == 1 and rank():
        raise InputError(
            f"the environment says that this is process {rank()} of a run, which has one process: unset RANK, "
            "LOCAL_RANK and SLURM_PROCID, or give --trainer.devices"
        )
    if forks(trainer):
        raise InputError(
            "this strategy starts its processes by spawn or fork and leaves what they fitted in them: use "
            "`--trainer.strategy ddp`"
        )
    limits = {name: getattr(trainer, name) for name in ("limit_val_batches", "limit_test_batches")}
    shortened = [f"{name} {value}" for name, value in limits.items() if isinstance(value, int) or value < 1]
    if shortened:
        raise InputError(
            f"{', '.join(shortened)}: fast_dev_run, overfit_batches and limit_*_batches would shorten the fit and the "
            "test in silence; write data.limit: 200 for at most 200 images of each set, which every table says"
        )
