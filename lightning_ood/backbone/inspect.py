"""Inspect a network without changing its state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode inside the block and restores the mode of each submodule afterwards.

    In train mode a forward pass would change the running statistics of batch norms. Modes are restored one by one, so
    that a frozen batch norm stays frozen.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


def overwritten_outputs(network: nn.Module, modules: Sequence[str], images: Tensor) -> set[str]:
    """Finds the modules whose output is changed by a later in-place operation, in one forward of ``images``."""
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
