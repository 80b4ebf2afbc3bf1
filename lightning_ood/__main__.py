"""``python -m lightning_ood COMMAND …``: the command line without ``train.py``."""

from lightning_ood.commands.cli import main

if __name__ == "__main__":
    main()
