"""One small forward pass that finds out how a network is built: its classifier, its maps, its blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_ood.errors import InputError


@dataclass(frozen=True)
class Tap:
    """A module whose output can be read as a map.

    Attributes:
        module: its name in the network.
        shape: ``[C, ...]`` of one image's map, channel first.
        layout: the dimension of the module's output that holds the channels: 1 (NCHW), 3 (NHWC) or 2 (tokens, NLC).
        rectify: whether the network applies a functional ReLU to it before it is pooled.
    """

    module: str
    shape: torch.Size
    layout: int
    rectify: bool = False

    def channel_first(self, output: Tensor) -> Tensor:
        """The module's output, or its gradient, as ``[B, C, ...]``."""
        return output if self.layout == 1 else output.movedim(self.layout, 1)

    def map(self, output: Tensor) -> Tensor:
        """The module's output as the map that the network reads."""
        output = self.channel_first(output)
        return output.relu() if self.rectify else output


@dataclass(frozen=True)
class Probe:
    """What is known of a network after one forward pass.

    Attributes:
        classifier: name of the module whose input is the penultimate feature and whose output are the logits.
        classes: K.
        width: D.
        taps: module name -> tap, in order of execution; the alias ``last`` is the map before global pooling.
        blocks: names of the network's own blocks, in order of execution; ``last`` at the end where that is not the
            output of the last block.
    """

    classifier: str
    classes: int
    width: int
    taps: dict[str, Tap]
    blocks: tuple[str, ...]


@dataclass
class _Record:
    name: str
    shape: torch.Size
    means: dict[tuple[int, bool], Tensor]  # (layout, rectified) -> [B, C] mean over space
    feature: Tensor | None  # the flattened input, of modules that may be the classifier
    output: Tensor | None  # the flattened output of those


def probe(network: nn.Module, images: Tensor, head: str | None = None) -> Probe:
    """Runs ``images`` ``[B, 3, H, W]`` through the network once and reads its structure.

    Args:
        network: in eval mode.
        images: two or more random images are enough.
        head: name of the classifier, where it cannot be found.

    Raises:
        InputError: if no classifier can be found, or ``head`` names no module.
    """
    modules = dict(network.named_modules())
    if head is not None and head not in modules:
        raise InputError(f"model.head: the network has no module {head!r}")
    records: list[_Record] = []
    with torch.no_grad(), _recording(network, records, head):
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"a {type(network).__name__} does not return logits [B, K]: it is no image classifier")
    classifier = _classifier(records, logits, head, type(network).__name__)
    assert classifier.feature is not None
    before = records[: records.index(classifier)]
    calls = Counter(record.name for record in records)
    maps = [r for r in before if r.means and calls[r.name] == 1 and r.name]
    nhwc = getattr(network, "output_fmt", "NCHW") == "NHWC"
    taps = {r.name: Tap(r.name, *_layout(r.shape, nhwc)) for r in maps}
    last = _last_map(maps, classifier.feature, taps)
    by_name = {record.name: record for record in maps}
    blocks = _joined(network, _blocks(network, taps), by_name, taps)
    if last is not None:
        if not blocks or not _same(by_name[blocks[-1]], by_name[last.module]):
            blocks.append("last")
        taps["last"] = last
    return Probe(classifier.name, logits.shape[1], classifier.feature.shape[1], taps, tuple(blocks))


@contextmanager
def _recording(network: nn.Module, records: list[_Record], head: str | None) -> Iterator[None]:
    def hook(name: str, module: nn.Module) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        may_classify = isinstance(module, nn.Linear | nn.Conv2d) or name == head

        def record(_: nn.Module, args: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor):
                return
            feature = args[0].flatten(1).clone() if may_classify and args and isinstance(args[0], Tensor) else None
            flat = output.flatten(1).clone() if may_classify else None
            records.append(_Record(name, output.shape, _means(output), feature, flat))

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
    layouts = {1: (2, 3), 3: (1, 2)} if output.ndim == 4 else {2: (1,)}
    return {
        (layout, rectified): (output.relu() if rectified else output).float().mean(space)
        for layout, space in layouts.items()
        for rectified in (False, True)
    }


def _same(one: _Record, other: _Record) -> bool:
    """Whether two modules put out the same map: a container and its last element."""
    return one.shape == other.shape and all(torch.equal(mean, other.means[key]) for key, mean in one.means.items())


def _layout(shape: torch.Size, nhwc: bool) -> tuple[torch.Size, int]:
    """Shape ``[C, ...]`` and channel dimension of a module's output."""
    if len(shape) == 3:
        return torch.Size((shape[2], shape[1])), 2
    _, a, b, c = shape
    if (a == b and b != c) or (nhwc and not (b == c and a != b)):
        return torch.Size((c, a, b)), 3
    return torch.Size((a, b, c)), 1


def _classifier(records: list[_Record], logits: Tensor, head: str | None, kind: str) -> _Record:
    for record in reversed(records):
        if record.output is None or record.feature is None:
            continue
        if record.name == head or (head is None and torch.equal(record.output, logits)):
            return record
    raise InputError(
        f"a {kind} has no classifier that could be found: no linear layer's output equals the network's, and every "
        "method here needs logits and the feature behind them. Give a model with a classification head "
        "(for timm: options.num_classes), or name the module with model.head"
    )


def _last_map(maps: list[_Record], pooled: Tensor, taps: dict[str, Tap]) -> Tap | None:
    """The map that global pooling turns into the penultimate feature; else the last map of the network."""
    spatial = [r for r in maps if taps[r.name].shape[1:].numel() > 1] or maps
    for rectified in (False, True):
        for record in reversed(spatial):
            for (layout, relu), mean in record.means.items():
                if relu == rectified and mean.shape == pooled.shape and torch.allclose(mean, pooled, 1e-3, 1e-5):
                    shape = record.shape[1:]
                    c = shape[layout - 1]
                    space = [n for i, n in enumerate(shape) if i != layout - 1]
                    return Tap(record.name, torch.Size((c, *space)), layout, rectified)
    convolutional = [r for r in spatial if len(r.shape) == 4]
    tokens = [r for r in spatial if len(r.shape) == 3]
    rest = convolutional or tokens
    if tokens and maps.index(tokens[-1]) > maps.index(rest[-1]):
        rest = tokens  # a ViT's only 4-D map is its patch embedding
    return taps[rest[-1].name] if rest else None


def _blocks(network: nn.Module, taps: dict[str, Tap]) -> list[str]:
    """Names of the network's own blocks among its taps."""
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
    ]
    outermost = [n for n in elements if not any(n.startswith(f"{other}.") for other in elements)]
    activations = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)
    return outermost or [
        name
        for name, tap in taps.items()
        if isinstance(network.get_submodule(name), activations) and tap.shape[1:].numel() > 1
    ]


def _timm_blocks(network: nn.Module, names: list[str]) -> list[str]:
    """What timm itself calls a block, in the patterns that it groups parameters by.

    A pattern with an order of its own is of what goes with a block: a downsampling, the last norm.
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
    """The blocks, those that a container joins to a wider map of the same size replaced by the container.

    A dense layer adds a few channels to what is passed on, a branch of an Inception module is one part of several:
    the map that the network passes on is that of the dense block, or of the module.
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
