"""Runs many settings of a run from one sweep file in W&B's format, without W&B's server."""


def main(args: list[str]) -> None:
    """Runs ``sweep FILE``."""
    from lightning_ood.commands.sweep import command  # here, so that fit_test does not import Optuna

    command.main(args)
