"""``python -m lightning_ood fit|test …``: the command line where there is no ``train.py`` at hand."""

from lightning_ood.commands.cli import main

if __name__ == "__main__":
    main()
