"""The place of a network whose features are stored in a table: it holds the linear classifier, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.errors import InputError
from lightning_ood.features import Head


class StoredFeatures(nn.Module):
    """Reads rows of stored features in place of images: logits and penultimate feature, or the feature alone.

    Its weights are those of the linear classifier, ``weight`` ``[K, D]`` and ``bias`` ``[K]``.

    Args:
        num_classes: K.
        num_features: D.
        head: whether there is a linear classifier; without one every row has its logits.
    """

    default_cfg: dict[str, Any] = {  # noqa: RUF012
        "input_size": (3, 1, 1),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": "nearest",
        "crop_pct": 1.0,
    }

    def __init__(self, num_classes: int, num_features: int, head: bool = True) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.head = num_classes, num_features, head
        if head:
            self.weight = nn.Parameter(torch.zeros(num_classes, num_features))
            self.bias = nn.Parameter(torch.zeros(num_classes))

    @classmethod
    def of(cls, head: Head) -> StoredFeatures:
        """Makes the network of a linear classifier."""
        network = cls(head.num_classes, head.num_features)
        network.load_state_dict({"weight": head.weight, "bias": head.bias})
        return network

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Splits rows into logits ``[B, K]`` and feature ``[B, D]``; computes logits that are not stored.

        Args:
            rows: ``[B, K + D]``, or ``[B, D]`` without logits.

        Raises:
            InputError: if the rows have another length, or lack logits where there is no classifier.
        """
        length, known = rows.shape[1], self.num_classes + self.num_features
        if length == known:
            return rows[:, : self.num_classes], rows[:, self.num_classes :]
        if length != self.num_features:
            raise InputError(
                f"rows of {length} numbers, and the network has {self.num_classes} logits and {self.num_features} "
                f"features: give `pooled` [N, {self.num_features}], and `logits` [N, {self.num_classes}] where known"
            )
        if not self.head:
            raise InputError("rows have no `logits`, and the network no head to compute them: give either")
        return nn.functional.linear(rows, self.weight, self.bias), rows

    def forward(self, rows: Tensor) -> Tensor:
        """Returns the logits ``[B, K]``."""
        return self.split(rows)[0]
