"""Fit and test OOD detectors: ``python train.py fit|test --config configs/digits.yaml``."""

from lightning_ood.commands.cli import main

if __name__ == "__main__":  # spawned data workers import this file again
    main()
