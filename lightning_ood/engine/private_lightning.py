"""What the package uses of Lightning that Lightning does not document; tests/test_private.py checks each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def forks(trainer: L.Trainer) -> bool:
    """Returns True if the strategy runs the loops in child processes, whose state is lost when they end."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


class ChildProcesses(Sequence[Any]):
    """The processes that this one has started as the other ranks, now; none where something else started them.

    Lightning's launcher makes a new list when it starts them, after a caller has asked for it.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._strategy = trainer.strategy

    def _now(self) -> list[Any]:
        return getattr(self._strategy.launcher, "procs", [])

    def __getitem__(self, index: Any) -> Any:
        return self._now()[index]

    def __len__(self) -> int:
        return len(self._now())


def subcommand_parser(cli: Any, subcommand: str) -> Any:
    """Returns the parser that a ``LightningCLI`` has for a subcommand."""
    return cli._parser(subcommand)
