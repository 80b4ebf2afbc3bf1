"""Means of a stream of rows per group."""

import torch
from torch import Tensor

from lightning_ood.statistics.base import Statistic


class ClassMeans(Statistic):
    """Sums of rows per group, and their numbers. State: ``K * (D + 1)`` float64.

    Args:
        groups: K.
        width: D.
        by: what the groups are ("label", "prediction", …). It only names the statistic, so that detectors with other
            groups do not share one.
    """

    sums: Tensor
    count: Tensor

    def __init__(self, groups: int, width: int, by: str = "label") -> None:
        super().__init__()
        self.by = by
        self.add_state("sums", torch.zeros(groups, width, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(groups, dtype=torch.float64), "sum")

    def update(self, rows: Tensor, groups: Tensor) -> None:
        """Adds rows ``[B, D]`` of the groups ``[B]``, int64."""
        rows = rows.double()
        self.sums = self.sums.index_add(0, groups, rows)
        self.count = self.count.index_add(0, groups, rows.new_ones(len(rows)))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns the means ``[K, D]`` (zero for an empty group) and numbers ``[K]`` over all processes, float64."""
        return self.sums / self.count.clamp(min=1)[:, None], self.count
