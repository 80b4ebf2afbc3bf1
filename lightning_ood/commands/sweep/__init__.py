"""Many settings of a run from one file: a W&B sweep, with W&B's agents or here."""

from lightning_ood.commands.sweep.engine import main

__all__ = ["main"]
