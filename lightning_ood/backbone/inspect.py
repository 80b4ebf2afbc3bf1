"""Inspect a network without changing its state."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_tensor(returned: Any) -> Tensor | None:
    """Returns what a module returned, if it is a tensor or a tuple that starts with one (Hugging Face's blocks)."""
    if isinstance(returned, tuple) and returned:
        returned = returned[0]
    return returned if isinstance(returned, Tensor) else None


def with_first(returned: Any, output: Tensor) -> Any:
    """Puts ``output`` in the place of the tensor that ``first_tensor`` finds."""
    return (output, *returned[1:]) if isinstance(returned, tuple) else output


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


def logits_of(output: Any) -> Any:
    """Returns the logits of a network's output: its field ``logits`` where it has one, else the output itself.

    A tuple stays a tuple, also a named one: torchvision's networks return auxiliary logits in one while they train.
    """
    if isinstance(output, tuple):
        return output
    return output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)


def overwritten_outputs(network: nn.Module, modules: Sequence[str], images: Tensor) -> set[str]:
    """Finds the modules whose output is changed by a later in-place operation, in one forward of ``images``."""
    if not modules:
        return set()
    versions: dict[str, tuple[Tensor, int]] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: Any, returned: Any) -> None:
            output = first_tensor(returned)
            if output is not None:
                versions[name] = (output, output._version)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(remember(name)) for name in modules]
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        network(images)
    for handle in handles:
        handle.remove()
    return {name for name, (output, version) in versions.items() if output._version != version}
