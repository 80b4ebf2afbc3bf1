"""Published ImageNet accuracies of timm's weights: a part of its results/results-imagenet.csv, commit 0173a139 (2023).

The part has common networks whose row there was measured at the size of their preprocessing.
"""

from __future__ import annotations

import csv
from pathlib import Path

from torch import nn

from lightning_ood.networks.source import Source

_TABLE = Path(__file__).with_name("timm_accuracy.csv")


def timm_accuracy(source: Source, network: nn.Module, size: tuple[int, int]) -> float | None:
    """Returns the published top-1 accuracy of a timm network in percent; None where the table has none.

    Args:
        source: origin of the weights: timm's own, or a file that is called as timm calls them.
        network: carries timm's name of its weights.
        size: height and width of the input.
    """
    if source.library != "timm":
        return None
    config = getattr(network, "pretrained_cfg", {})
    tags = {"library": f"{config.get('architecture')}.{config.get('tag')}", "file": Path(source.weights).stem}
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == tags.get(source.kind)]
    return next((float(row["top1"]) for row in rows if size == (int(row["size"]),) * 2), None)
