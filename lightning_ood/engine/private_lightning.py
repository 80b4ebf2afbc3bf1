"""What the package uses of Lightning that Lightning does not document; tests/test_private.py checks each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def forks(trainer: L.Trainer) -> bool:
    """Returns True if the strategy runs the loops in child processes, whose state is lost when they end."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def child_processes(trainer: L.Trainer) -> Sequence[Any]:
    """Returns the processes that this one started as the other ranks; none where something else started them."""
    return getattr(trainer.strategy.launcher, "procs", [])


def subcommand_parser(cli: Any, subcommand: str) -> Any:
    """Returns the parser that a ``LightningCLI`` has for a subcommand."""
    return cli._parser(subcommand)
