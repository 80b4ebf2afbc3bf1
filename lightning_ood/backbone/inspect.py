"""Looking at a network without leaving a trace."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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


def overwritten_outputs(network: nn.Module, modules: Sequence[str], images: Tensor) -> set[str]:
    """The modules whose output a later in-place operation of a forward pass changes."""
    if not modules:
        return set()
    versions: dict[str, tuple[Tensor, int]] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: versions.update({name: (output, output._version)})
        )
        for name in modules
    ]
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        network(images)
    for handle in handles:
        handle.remove()
    return {name for name, (output, version) in versions.items() if output._version != version}
