"""The commands of ``train.py``, one file or folder each."""
