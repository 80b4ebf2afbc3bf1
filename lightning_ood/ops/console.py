"""Console output of rank 0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from lightning_ood.ops.processes import rank


def rank_zero_print(text: str) -> None:
    """Prints one line, on rank 0."""
    if rank() == 0:
        Console(file=sys.stdout, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def progress(what: str, total: int | None, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Shows a progress bar on stderr that goes at the end; yields what is called after each step."""
    if not shown:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def rank_zero_warn(text: str) -> None:
    """Prints one line that begins with ``warning:`` on the error stream, on rank 0."""
    if rank() == 0:
        print(f"warning: {text}", file=sys.stderr)
