"""Console output of rank 0."""

from __future__ import annotations

import sys

from rich.console import Console

from lightning_ood.ops.processes import rank


def rank_zero_print(text: str) -> None:
    """Prints one line, on rank 0."""
    if rank() == 0:
        Console(file=sys.stdout, highlight=False, soft_wrap=True).print(text, markup=False)


def rank_zero_warn(text: str) -> None:
    """Prints one line that begins with ``warning:`` on the error stream, on rank 0."""
    if rank() == 0:
        print(f"warning: {text}", file=sys.stderr)
