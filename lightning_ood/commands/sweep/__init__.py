"""Runs many settings of a run from one sweep file in W&B's format, without W&B's server."""

from lightning_ood.commands.sweep.command import main

__all__ = ["main"]
