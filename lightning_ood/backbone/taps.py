"""Records every module of a network in one forward pass, and describes the outputs that can be read as maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.backbone.classifier import Candidate
from lightning_ood.backbone.inspect import first_tensor


@dataclass(frozen=True)
class Tap:
    """A module whose output can be read as a map.

    Attributes:
        module: name of the module in the network.
        shape: ``[C, ...]`` of one image's map, channel first.
        layout: the dimension of the module's output that holds the channels: 1 (NCHW), 3 (NHWC) or 2 (tokens, NLC).
        rectify: whether the network applies a functional ReLU to the output before pooling.
    """

    module: str
    shape: torch.Size
    layout: int
    rectify: bool = False

    def channel_first(self, output: Tensor) -> Tensor:
        """Moves the channels of the module's output, or of its gradient, first: ``[B, C, ...]``."""
        return output if self.layout == 1 else output.movedim(self.layout, 1)

    def map(self, output: Tensor) -> Tensor:
        """Converts the module's output to the map ``[B, C, ...]`` that the network pools or passes on."""
        output = self.channel_first(output)
        return output.relu() if self.rectify else output


@dataclass(frozen=True)
class Record:
    """One call of a module.

    Attributes:
        name: name of the module in the network.
        shape: shape of its output.
        means: (layout, rectified) -> mean over space ``[B, C]``; empty if the output is no map of each image.
        tensor: whether the module returns a tensor, and not a tuple that starts with one.
        pools: whether the module reads a map and returns one position.
        weighted: whether the module has parameters of its own.
        call: the call as a candidate for the classifier; None for modules that cannot be it.
    """

    name: str
    shape: torch.Size
    means: dict[tuple[int, bool], Tensor]
    tensor: bool
    pools: bool
    weighted: bool
    call: Candidate | None

    def same_map(self, other: Record) -> bool:
        """Tells whether two modules return the same map, such as a container and its last element."""
        return self.shape == other.shape and all(
            torch.equal(mean, other.means[key]) for key, mean in self.means.items()
        )


@contextmanager
def recording(network: nn.Module, records: list[Record], head: str | None, count: int) -> Iterator[None]:
    """Appends a record of each module that returns a tensor, in order of execution, to ``records``.

    Args:
        network: the network that is run inside the block.
        records: the list that is filled.
        head: name of the classifier, if the user gave it.
        count: B, the number of images.
    """

    def hook(name: str, module: nn.Module) -> Callable[..., None]:
        one_pixel = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        may_classify = isinstance(module, nn.Linear) or one_pixel or name == head
        weighted = any(True for _ in module.parameters(recurse=False))

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
            output = first_tensor(returned)
            if output is None:
                return
            read = args[0] if args else None
            call = Candidate.of(name, module, read, output) if may_classify and isinstance(read, Tensor) else None
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            pools = any(_positions(value, count) > 1 for value in inputs) and _positions(output, count) == 1
            means = _means(output) if _varies(output, count) else {}
            records.append(Record(name, output.shape, means, output is returned, pools, weighted, call))

        return record

    handles = [
        module.register_forward_hook(hook(name, module), with_kwargs=True) for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positions(value: Tensor, count: int) -> int:
    """Counts the positions of a map of ``count`` images: 1 for a vector per image, 0 for other tensors."""
    if value.ndim not in (2, 3, 4) or len(value) != count:
        return 0
    if value.ndim == 4:
        return min(value.shape[2:].numel(), value.shape[1:3].numel())  # of NCHW and of NHWC
    return 1 if value.ndim == 2 else value.shape[1]


def _varies(output: Tensor, count: int) -> bool:
    """Tells whether an output has a row per image, and not the same for all, as a position bias has."""
    if output.ndim not in (3, 4) or len(output) != count:
        return False
    return any(not torch.equal(output[0], row) for row in output[1:]) or not output.any()


def _means(output: Tensor) -> dict[tuple[int, bool], Tensor]:
    layouts = {1: (2, 3), 3: (1, 2)} if output.ndim == 4 else {2: (1,)}  # channel dimension -> spatial dimensions
    return {
        (layout, rectified): (output.relu() if rectified else output).float().mean(space)
        for layout, space in layouts.items()
        for rectified in (False, True)
    }
