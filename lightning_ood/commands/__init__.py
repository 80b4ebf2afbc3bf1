"""The commands of ``train.py``, one file or folder each; ``cli.py`` holds the table of them."""
