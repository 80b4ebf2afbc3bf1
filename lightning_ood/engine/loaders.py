"""The loaders of a Trainer that knows nothing of this package, read in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ood.data.sampling import ExactSampler
from lightning_ood.data.workers import start_worker


def in_order(loader: DataLoader, rank: int, world_size: int) -> DataLoader:
    """Returns a loader of the same images, each once over all processes and in order."""
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size or 64,
        sampler=ExactSampler(len(loader.dataset), rank, world_size),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn or start_worker,
    )


def with_positions(loader: DataLoader) -> Iterator[tuple[Any, Tensor]]:
    """Yields the batches of a loader and the positions ``[B]`` of their images."""
    positions = torch.tensor(list(loader.sampler), dtype=torch.int64).split(loader.batch_size or 1)
    yield from zip(loader, positions, strict=True)


def stored_targets(loader: DataLoader) -> Tensor | None:
    """Returns the labels ``[N]`` stored beside a data set, or None."""
    targets = getattr(loader.dataset, "targets", None)
    return None if targets is None else torch.as_tensor(targets)


def loaders_of(trainer: L.Trainer) -> Any:
    """Returns the loaders of ``trainer.validate`` or ``trainer.test``, whichever runs."""
    validates = trainer.state.fn == TrainerFn.VALIDATING
    return trainer.val_dataloaders if validates else trainer.test_dataloaders


def compares(trainer: L.Trainer) -> bool:
    """Tells whether ``trainer.validate`` runs over an ID set and OOD sets; a validation of one set is left alone."""
    return trainer.state.fn == TrainerFn.VALIDATING and len(listed(trainer)) > 1


def listed(trainer: L.Trainer) -> list[Any]:
    """Returns the loaders as a list."""
    loaders = loaders_of(trainer)
    if isinstance(loaders, dict):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def positions_of(loader: Any) -> Tensor:
    """Returns the positions in the data set in the order in which a test loader reads them on this process."""
    return torch.tensor(list(loader.sampler), dtype=torch.int64)
