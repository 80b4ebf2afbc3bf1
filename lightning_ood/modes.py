"""Eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Each part is in eval mode inside and in its own mode again afterwards: a frozen batch norm stays frozen.

    A look at a network that is being trained must leave no trace, and in train mode a batch norm would count it.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
