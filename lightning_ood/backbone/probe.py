"""Finds the classifier, maps and blocks of a network with one small forward pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from lightning_ood.backbone.channels import channel_first, layouts
from lightning_ood.backbone.classifier import Candidate, find_classifier, is_linear
from lightning_ood.errors import InputError


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
class Probe:
    """Structure of a network, found in one forward pass.

    Attributes:
        classifiers: name of the module whose input is the penultimate feature and whose output are the logits. Two
            names if the logits are the mean of two outputs; the feature is then both inputs concatenated.
        linear: whether the logits are a linear function of the penultimate feature.
        num_classes: K.
        num_features: D.
        taps: module name -> tap, in order of execution; the alias ``last`` is the map before global pooling.
        blocks: names of the network's own blocks, in order of execution; then ``last``, if it is not the output of the
            last block.
    """

    classifiers: tuple[str, ...]
    linear: bool
    num_classes: int
    num_features: int
    taps: dict[str, Tap]
    blocks: tuple[str, ...]


@dataclass
class _Record:
    name: str
    shape: torch.Size
    means: dict[tuple[int, bool], Tensor]  # (layout, rectified) -> [B, C] mean over space
    call: Candidate | None  # only for modules that may be the classifier


def probe(network: nn.Module, images: Tensor, head: str | None = None) -> Probe:
    """Finds the structure of a network in one forward pass.

    Args:
        network: in eval mode.
        images: ``[B, 3, H, W]``; two or more random images are enough.
        head: name of the classifier, if it is not found automatically.

    Raises:
        InputError: if no classifier is found, or ``head`` names no module.
    """
    modules = dict(network.named_modules())
    if head is not None and head not in modules:
        near = get_close_matches(head, modules, n=3, cutoff=0.3)
        raise InputError(f"model.head: the network has no module {head!r}; write one of: {', '.join(near) or 'none'}")
    records: list[_Record] = []
    with torch.no_grad(), _recording(network, records, head):
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"a {type(network).__name__} does not return logits [B, K]; give an image classifier")
    found = find_classifier([r.call for r in records if r.call], logits, head, type(network).__name__)
    feature = torch.cat([call.feature for call in found], dim=1)  # [B, D]
    linear = is_linear([modules[call.name] for call in found], feature, logits)
    before = records[: next(i for i, record in enumerate(records) if record.call is found[0])]
    calls = Counter(record.name for record in records)
    by_name = {r.name: r for r in before if r.means and calls[r.name] == 1 and r.name}
    dims = layouts(
        network, {name: record.shape for name, record in by_name.items()}, (images.shape[2], images.shape[3])
    )
    taps = {name: Tap(name, channel_first(by_name[name].shape, dim), dim) for name, dim in dims.items()}
    blocks = _joined(network, _blocks(network, taps), by_name, taps)
    last = _last_map(
        [r for r in by_name.values() if taps[r.name].shape[1:].numel() > 1 or r.name in blocks], feature, taps
    )
    if last is not None:
        if not blocks or not _same(by_name[blocks[-1]], by_name[last.module]):
            blocks.append("last")
        taps["last"] = last
    names = tuple(call.name for call in found)
    return Probe(names, linear, logits.shape[1], feature.shape[1], taps, tuple(blocks))


@contextmanager
def _recording(network: nn.Module, records: list[_Record], head: str | None) -> Iterator[None]:
    def hook(name: str, module: nn.Module) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        may_classify = isinstance(module, nn.Linear | nn.Conv2d) or name == head

        def record(_: nn.Module, args: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor):
                return
            read = args[0] if args else None
            call = Candidate.of(name, module, read, output) if may_classify and isinstance(read, Tensor) else None
            records.append(_Record(name, output.shape, _means(output), call))

        return record

    handles = [module.register_forward_hook(hook(name, module)) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _means(output: Tensor) -> dict[tuple[int, bool], Tensor]:
    if output.ndim not in (3, 4):
        return {}
    layouts = {1: (2, 3), 3: (1, 2)} if output.ndim == 4 else {2: (1,)}  # channel dimension -> spatial dimensions
    return {
        (layout, rectified): (output.relu() if rectified else output).float().mean(space)
        for layout, space in layouts.items()
        for rectified in (False, True)
    }


def _same(one: _Record, other: _Record) -> bool:
    """Tells whether two modules return the same map, such as a container and its last element."""
    return one.shape == other.shape and all(torch.equal(mean, other.means[key]) for key, mean in one.means.items())


def _last_map(maps: list[_Record], pooled: Tensor, taps: dict[str, Tap]) -> Tap | None:
    """Finds the map whose mean over space is the penultimate feature ``[B, D]``, or else the last map."""
    for rectified in (False, True):
        for record in reversed(maps):
            for (layout, relu), mean in record.means.items():
                if relu == rectified and mean.shape == pooled.shape and torch.allclose(mean, pooled, 1e-3, 1e-5):
                    return Tap(record.name, channel_first(record.shape, layout), layout, rectified)
    convolutional = [r for r in maps if len(r.shape) == 4]
    tokens = [r for r in maps if len(r.shape) == 3]
    rest = convolutional or tokens
    if tokens and maps.index(tokens[-1]) > maps.index(rest[-1]):
        rest = tokens  # a ViT's only 4-D map is its patch embedding
    return taps[rest[-1].name] if rest else None


def _blocks(network: nn.Module, taps: dict[str, Tap]) -> list[str]:
    """Lists the names of the network's own blocks among its taps."""
    own = getattr(network, "blocks", None)
    if isinstance(own, tuple) and all(isinstance(name, str) for name in own):
        return [name for name in taps if name in own]
    if hasattr(network, "group_matcher"):
        blocks = _timm_blocks(network, list(taps))
        if blocks:
            return blocks
    elements = [
        name
        for name in taps
        if isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Sequential | nn.ModuleList)
        and not isinstance(network.get_submodule(name), nn.Sequential)
        and any(True for _ in network.get_submodule(name).children())
        and "Pool" not in type(network.get_submodule(name)).__name__
    ]
    outermost = [n for n in elements if not any(n.startswith(f"{other}.") for other in elements)]
    outermost = outermost or _compound(network, taps)
    activations = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)
    return outermost or [
        name
        for name, tap in taps.items()
        if isinstance(network.get_submodule(name), activations) and tap.shape[1:].numel() > 1
    ]


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


def _joined(network: nn.Module, blocks: list[str], records: dict[str, _Record], taps: dict[str, Tap]) -> list[str]:
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
