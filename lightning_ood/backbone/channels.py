"""Finds the dimension of a module's output that holds the channels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import torch
from torch import nn

NCHW, NHWC, TOKENS = 1, 3, 2
_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def layouts(network: nn.Module, shapes: Mapping[str, torch.Size], size: tuple[int, int]) -> dict[str, int]:
    """Finds the channel dimension of every output.

    The two spatial dimensions are those with the aspect ratio of the images. If channels and space have the same
    length (96 x 96 x 96), a module gets the layout of most modules of its class in the same network, or else the
    network's own default.

    Args:
        network: the network that the modules belong to.
        shapes: module name -> shape of its output, batch first, of 3 or 4 dimensions.
        size: ``(H, W)`` of the images.

    Returns:
        module name -> 1 (NCHW), 3 (NHWC) or 2 (tokens).
    """
    modules = {name: network.get_submodule(name) for name in shapes}
    decided = {name: _decided(modules[name], shape, size) for name, shape in shapes.items()}
    by_class: dict[type[nn.Module], Counter[int]] = defaultdict(Counter)
    for name, layout in decided.items():
        if layout is not None and layout != TOKENS:
            by_class[type(modules[name])][layout] += 1
    most = Counter({NHWC: 1}) if getattr(network, "output_fmt", "") == "NHWC" else Counter({NCHW: 1})
    return {
        name: layout if layout is not None else (by_class[type(modules[name])] or most).most_common(1)[0][0]
        for name, layout in decided.items()
    }


def channel_first(shape: torch.Size, layout: int) -> torch.Size:
    """Returns the shape ``[C, ...]`` of one image's map, given the shape of a batch of outputs."""
    return torch.Size((shape[layout], *(n for i, n in enumerate(shape) if i not in (0, layout))))


def _decided(module: nn.Module, shape: torch.Size, size: tuple[int, int]) -> int | None:
    if len(shape) == 3:
        return TOKENS
    if isinstance(module, nn.Linear):
        return NHWC
    if isinstance(module, _FIRST):
        return NCHW
    _, a, b, c = shape
    first, last = _is_space(b, c, size), _is_space(a, b, size)
    return None if first == last else NCHW if first else NHWC


def _is_space(height: int, width: int, size: tuple[int, int]) -> bool:
    """Tells whether a map ``(height, width)`` has the aspect ratio of images ``size``, up to rounding."""
    if size[0] == size[1]:
        return height == width
    return abs(height * size[1] - width * size[0]) < max(size)
