"""Finds a network's own blocks among the modules whose output is a map."""

from __future__ import annotations

import re

from torch import nn

from lightning_ood.backbone.taps import Record, Tap


def find_blocks(network: nn.Module, records: dict[str, Record], taps: dict[str, Tap]) -> list[str]:
    """Lists the names of the network's own blocks, in order of execution.

    Args:
        network: the network.
        records: module name -> its call, in order of execution.
        taps: module name -> tap, of the same modules.
    """
    return _joined(network, _blocks(network, records, taps), records, taps)


def _blocks(network: nn.Module, records: dict[str, Record], taps: dict[str, Tap]) -> list[str]:
    """Lists the names of the network's own blocks among its taps."""
    own = getattr(network, "blocks", None)
    if isinstance(own, tuple) and all(isinstance(name, str) for name in own):
        return [name for name in taps if name in own]
    if hasattr(network, "group_matcher"):
        blocks = _timm_blocks(network, list(taps))
        if blocks:
            return blocks
    outermost = _elements(network, [name for name in taps if records[name].tensor])
    if len(outermost) < 2:
        outermost = _elements(network, list(taps)) or outermost  # Hugging Face's blocks return tuples
    outermost = outermost or _compound(network, taps)
    activations = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)
    return outermost or [
        name
        for name, tap in taps.items()
        if isinstance(network.get_submodule(name), activations) and tap.shape[1:].numel() > 1
    ]


def _elements(network: nn.Module, names: list[str]) -> list[str]:
    """Lists the outermost elements of lists of modules that have several layers and are no pooling."""
    elements = [
        name
        for name in names
        if isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Sequential | nn.ModuleList)
        and not isinstance(network.get_submodule(name), nn.Sequential)
        and any(True for _ in network.get_submodule(name).children())
        and "Pool" not in type(network.get_submodule(name)).__name__
    ]
    return [n for n in elements if not any(n.startswith(f"{other}.") for other in elements)]


def _compound(network: nn.Module, taps: dict[str, Tap]) -> list[str]:
    """Lists the direct children of the network with several layers each, if there are several (Inception)."""

    def layers(name: str) -> int:
        return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.get_submodule(name).modules())

    own = [name for name in taps if "." not in name and not isinstance(network.get_submodule(name), nn.Sequential)]
    compound = [name for name in own if layers(name) > 1]
    return compound if len(compound) > 1 else []


def _timm_blocks(network: nn.Module, names: list[str]) -> list[str]:
    """Lists the names that match timm's patterns of blocks, by which it groups parameters.

    Patterns with an explicit order are left out: they match what accompanies a block (a downsampling, the last norm).
    """
    matcher = network.group_matcher(coarse=False)  # type: ignore[operator]
    patterns = matcher.get("blocks", ()) if isinstance(matcher, dict) else ()
    entries = [(patterns, None)] if isinstance(patterns, str) else patterns
    entries = [(entry, None) if isinstance(entry, str) else entry for entry in entries]
    own = [pattern for pattern, order, *_ in entries if order is None]
    return [
        name
        for name in names
        if any(re.fullmatch(pattern, name) for pattern in own)
        and any(True for _ in network.get_submodule(name).children())
    ]


def _joined(network: nn.Module, blocks: list[str], records: dict[str, Record], taps: dict[str, Tap]) -> list[str]:
    """Replaces blocks by the container that concatenates them to a wider map of the same size.

    A dense layer only adds a few channels to its input, and a branch of an Inception module is one of several. The map
    that the network passes on is that of the dense block or of the Inception module.
    """

    def outermost(name: str) -> str:
        channels, *space = taps[name].shape
        for depth in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:depth])
            if parent in taps and not isinstance(network.get_submodule(parent), nn.Sequential):
                wider, *room = taps[parent].shape
                if wider > channels and room == space:
                    return parent
        return name

    joined = set(map(outermost, blocks))
    return [n for n in records if n in joined and not any(n.startswith(f"{other}.") for other in joined)]
