"""Finds the classifier, maps and blocks of a network with a few forward passes of two small images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from lightning_ood.backbone.answers import Reader, answer
from lightning_ood.backbone.blocks import find_blocks
from lightning_ood.backbone.channels import channel_first, layouts
from lightning_ood.backbone.classifier import Candidate, find_classifier, is_linear
from lightning_ood.backbone.last import last_map, pooling_modules
from lightning_ood.backbone.taps import Record, Tap, recording
from lightning_ood.errors import InputError


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


def probe(network: nn.Module, images: Tensor, head: str | None = None, allow_random: bool = False) -> Probe:
    """Finds the structure of a network.

    Args:
        network: in eval mode.
        images: ``[B, 3, H, W]``; two or more random images are enough.
        head: name of the classifier, if it is not found automatically.
        allow_random: accept answers that differ each time, or with the other images of the batch.

    Raises:
        InputError: if the network does not return logits or answers differently, if no classifier is found, or if
            ``head`` names no module or one whose output is not the network's.
    """
    modules = dict(network.named_modules())
    if head is not None and head not in modules:
        near = get_close_matches(head, modules, n=3, cutoff=0.3)
        raise InputError(f"model.head: the network has no module {head!r}; write one of: {', '.join(near) or 'none'}")
    records: list[Record] = []
    with recording(network, records, head, len(images)):
        logits = answer(network, images)
    found = find_classifier(_candidates(records), logits, head, type(network).__name__)
    feature = torch.cat([call.feature for call in found], dim=1)  # [B, D]
    names = tuple(call.name for call in found)
    linear = is_linear([modules[name] for name in names], feature, logits)
    reader = Reader(network, images, names)
    if not allow_random:
        reader.check(logits, feature)

    before = records[: next(i for i, record in enumerate(records) if record.call is found[0])]
    calls = Counter(record.name for record in records)
    by_name = {r.name: r for r in before if r.means and calls[r.name] == 1 and r.name}
    dims = layouts(
        network, {name: record.shape for name, record in by_name.items()}, (images.shape[2], images.shape[3])
    )
    taps = {name: Tap(name, channel_first(by_name[name].shape, dim), dim) for name, dim in dims.items()}
    blocks = find_blocks(network, by_name, taps)
    maps = [r for r in by_name.values() if taps[r.name].shape[1:].numel() > 1 or r.name in blocks]
    pooling = pooling_modules(network, records, blocks)
    last = last_map(maps, feature, taps, pooling, lambda name: reader.is_cut(name, feature))
    if last is not None:
        if not blocks or not by_name[blocks[-1]].same_map(by_name[last.module]):
            blocks.append("last")
        taps["last"] = last
    return Probe(names, linear, logits.shape[1], feature.shape[1], taps, tuple(blocks))


def _candidates(records: list[Record]) -> list[Candidate]:
    """Lists the calls that may be the classifier's, and marks those after which no other layer with weights runs."""
    found: list[Candidate] = []
    later: list[str] = []  # modules with weights that run later
    for record in reversed(records):
        if record.call is not None:
            record.call.final = all(not name or record.name.startswith(f"{name}.") for name in later)
            found.append(record.call)
        if record.weighted:
            later.append(record.name)
    return found[::-1]
