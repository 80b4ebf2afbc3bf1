"""Fits and tests OOD detectors: ``python train.py COMMAND …``; ``--help`` lists the commands."""

from lightning_ood.commands.cli import main

if __name__ == "__main__":  # spawned data workers import this file again
    main()
