"""Runs many settings of a run from one sweep file in W&B's format, without W&B's server."""

from __future__ import annotations

from pathlib import Path

from lightning_ood.commands.options import OptionParser
from lightning_ood.errors import InputError


def main(args: list[str]) -> None:
    """``sweep FILE``: runs the points of a sweep file in W&B's format; finished points are not repeated."""
    parser = OptionParser(prog="train.py sweep", description=main.__doc__)
    parser.add_argument("file", type=Path, help="the sweep file; `wandb sweep FILE` reads it too")
    parser.add_argument("--folder", type=Path, help="folder of the runs; runs/sweeps/<folder>-<file> by default")
    parser.add_argument("--results", type=Path, help="folder of table and picture; the folder of the runs by default")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at a time")
    parser.add_argument("--count", type=int, help="points of a random or Bayes sweep, finished ones included; run_cap")
    parser.add_argument(
        "--batch", type=int, default=8, help="points that Bayes proposes at a time (they share a run where they can)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of a random or Bayes sweep")
    options = parser.parse_args(args)
    try:
        from lightning_ood.commands.sweep import command  # here, so that neither --help nor fit_test imports Optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise InputError("sweep needs Optuna: pip install 'lightning-ood[sweep]'") from None
    command.run(options)
