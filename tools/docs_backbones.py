"""Generates ``docs/backbones.md`` from the networks: ``python -m tools.docs backbones --write``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from lightning_ood.features import NetworkInfo
from tools.survey import Model, refusals
from tools.zoo import MODELS, REFUSED

_INTRODUCTION = """# Backbones

Any classifier of timm, of torchvision or of your own can be the network. This table is of those that the tests try,
each with every detector; it is made from the networks themselves, with random weights and images of the size that they
were published for, by `python -m tools.docs backbones --write`: do not edit.

*Feature* is the length of the penultimate feature, what the classifier reads. *Last map* is the map that enters global
pooling, channels first: `[C, H, W]` of a convolutional network, `[C, N]` of N tokens. *Blocks* counts the maps of the
network's own blocks, which FeatureNorm chooses from. *Attention* is that of the class token in the last block: heads x
tokens. *Refused* counts the detectors that the network does not serve; why is said below.
"""


def backbones(kinds: Iterable[type[Detector]], models: Iterable[Model] = (*MODELS, *REFUSED)) -> str:
    """Renders ``docs/backbones.md``.

    Args:
        kinds: classes of the detectors, which are set up with their default arguments.
        models: the networks, one per row of the table.
    """
    kinds = list(kinds)
    rows, reasons = [], []
    for model in models:
        row, refusals = _row(model, kinds)
        rows.append("| " + " | ".join((f"`{model.name}`", model.family, *row)) + " |")
        reasons += [f"- `{model.name}`: {sentence}" for sentence in refusals]
    header = ["model", "family", "images", "feature", "last map", "blocks", "attention", "refused"]
    table = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *rows]
    return "\n".join((_INTRODUCTION, *table, "\n## What is refused, and why\n", *reasons)) + "\n"


def _row(model: Model, kinds: list[type[Detector]]) -> tuple[list[str], list[str]]:
    height, width = model.size()
    images = f"{height} x {width}"
    try:
        info = Backbone(model.build(), (height, width)).info()
    except InputError as error:
        return [images, "", "", "", "", "all"], [f"all: {error}"]
    reasons = refused(kinds, info)
    last = info.maps.get("last")
    cells = [
        images,
        str(info.num_features),
        " x ".join(map(str, last)) if last is not None else "none",
        str(len(info.blocks)),
        "{} x {}".format(*info.attention) if info.attention else "none",
        str(len(reasons)) if reasons else "none",
    ]
    return cells, _grouped(reasons)


def refused(kinds: Iterable[type[Detector]], info: NetworkInfo) -> dict[str, str]:
    """Maps each detector that cannot run on a network to the reason, without allocating memory."""
    info = replace(info, head=info.head.to("meta") if info.head else None)
    with torch.device("meta"):
        return {name: why for kind in kinds for name, why in refusals({kind.__name__: kind()}, info).items()}


def _grouped(reasons: dict[str, str]) -> list[str]:
    """Lists each reason once, after the names of its detectors."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why.replace(name, "it"), []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in groups.items()]
