"""Finds the map whose tokens or positions are pooled into the penultimate feature."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from lightning_ood.backbone.channels import channel_first
from lightning_ood.backbone.taps import Record, Tap

_TRIES = 8  # forward passes at most; a network whose feature joins two branches has no cut


def last_map(
    maps: list[Record], feature: Tensor, taps: dict[str, Tap], pooling: set[str], is_cut: Callable[[str], bool]
) -> Tap | None:
    """Finds the last map of a network; None if it has no maps.

    It is the map whose mean over space is the penultimate feature. Where the feature is pooled in another way, it is
    the last map outside of pooling modules on which alone the feature depends; where there is none, the last map.

    Args:
        maps: the calls that return a map, in order of execution.
        feature: ``[B, D]``, the penultimate feature.
        taps: module name -> tap, of the same modules.
        pooling: names of the modules that are part of a pooling.
        is_cut: runs the network to tell whether the feature depends on the images only through a module's output.
    """
    for rectified in (False, True):
        for record in reversed(maps):
            for (layout, relu), mean in record.means.items():
                if relu == rectified and mean.shape == feature.shape and torch.allclose(mean, feature, 1e-3, 1e-5):
                    return Tap(record.name, channel_first(record.shape, layout), layout, rectified)
    outside = [record for record in maps if record.name not in pooling]
    for record in islice(reversed(outside), _TRIES):
        if is_cut(record.name):
            return taps[record.name]
    convolutional = [r for r in outside if len(r.shape) == 4]
    tokens = [r for r in outside if len(r.shape) == 3]
    rest = convolutional or tokens
    if tokens and outside.index(tokens[-1]) > outside.index(rest[-1]):
        rest = tokens  # a ViT's only 4-D map is its patch embedding
    return taps[rest[-1].name] if rest else None


def pooling_modules(network: nn.Module, records: Iterable[Record], blocks: list[str]) -> set[str]:
    """Names the modules inside of poolings: modules with no block that read a map and return one position.

    The keys of an attention pooling are a map too, but what is pooled is the map that the pooling reads.
    """
    parents = {
        record.name
        for record in records
        if record.pools
        and record.name
        and not isinstance(network.get_submodule(record.name), nn.Sequential)  # its elements form a chain
        and not any(block == record.name or block.startswith(f"{record.name}.") for block in blocks)
    }
    return {name for name, _ in network.named_modules() if any(name.startswith(f"{parent}.") for parent in parents)}
