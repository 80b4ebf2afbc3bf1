"""A bounded, uniform sample of the rows of a stream, the same on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.base import Statistic, own

_NONE = torch.iinfo(torch.int64).max  # the key of a row that is not there


def _join(stacked: Tensor) -> Tensor:
    """Concatenates what the processes hold: ``[world, n, ...] -> [world * n, ...]``."""
    return stacked.flatten(0, 1)


class Sample(Statistic):
    """A bounded, uniform sample of the rows of a stream: the ``size`` rows whose images hash lowest.

    The sample depends on the seed and the image indices alone, so it is the same for any order, batching and
    number of processes. State: ``size * (width + 1)`` numbers, on each process; bringing the processes together takes
    as much again, whatever their number: first the keys are compared, then each gives the rows that won.

    Args:
        size: how many rows are kept at most.
        width: numbers in a row.
        seed: draws another sample.
        dtype: of the rows.
    """

    keys: Tensor
    rows: Tensor

    def __init__(self, size: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(sync_on_compute=False)  # `compute` exchanges what is needed
        self.size, self.seed = size, seed
        self.add_state("keys", torch.full((size,), _NONE), _join)
        self.add_state("rows", torch.zeros(0, width, dtype=dtype), _join)  # room is made for the first image
        self._drawn: Tensor | None = None

    def update(self, rows: Tensor, index: Tensor) -> None:
        """Offers ``rows`` ``[B, width]`` of the images ``index`` ``[B]``."""
        keys = beside(hash_index(index, self.seed), rows)
        if self.size < len(keys):  # at most `size` of a batch can enter
            keys, best = keys.topk(self.size, largest=False)
            rows = rows[best]
        # The worst kept rows are where new ones go, in place: no copy of the whole sample, and no wait for the device.
        worst, slots = self.keys.topk(min(len(keys), self.size), largest=True)
        keys, best = keys.sort()
        enters = keys < worst
        self._make_room()
        self.rows = own(self.rows) if self._drawn is None else self.rows.clone()  # what was drawn is another's now
        self._drawn = None
        self.keys = self.keys.index_copy(0, slots, torch.where(enters, keys, worst))
        entering = torch.where(enters[:, None], rows[best].to(self.rows.dtype), self.rows[slots])
        self.rows.index_copy_(0, slots, entering)

    def merge_state(self, incoming_state: dict | Metric) -> None:
        """Takes in another sample of the same size and seed."""
        self._make_room()
        if isinstance(incoming_state, Sample):
            incoming_state._make_room()
        super().merge_state(incoming_state)
        self.keys, best = self.keys.topk(self.size, largest=False)
        self.rows, self._drawn = self.rows[best], None

    def _make_room(self) -> None:
        if len(self.rows) < len(self.keys):
            self.rows = self.rows.new_zeros(self.size, self.rows.shape[1])

    def reset(self) -> None:
        """Back to no rows."""
        super().reset()
        self._drawn = None

    def compute(self) -> Tensor:
        """A copy of what :meth:`draw` gives."""
        return self.draw()

    def draw(self) -> Tensor:
        """The sampled rows over all processes, ``[min(size, seen), width]``, in the order of their keys; to be read."""
        if self._drawn is None:
            self._drawn = self._rows_of_all()
        return self._drawn

    def _rows_of_all(self) -> Tensor:
        with torch.inference_mode(self.rows.is_inference()):  # as they were made, so that they may be written to
            return self._brought_together()

    def _brought_together(self) -> Tensor:
        self._make_room()
        self.keys, order = self.keys.sort()
        self.rows = _arranged(own(self.rows), order)
        everyones = gather(self.keys)
        won = everyones.sort().values[: self.size][-1:]
        mine = int(((self.keys <= won) & (self.keys != _NONE)).sum())
        if len(everyones) == len(self.keys):
            return self.rows if mine == self.size else self.rows[:mine].clone()  # a file of a part would hold the whole
        return _arranged(gather(self.rows[:mine]), gather(self.keys[:mine]).argsort())


def _arranged(rows: Tensor, order: Tensor) -> Tensor:
    """``rows[order]`` in place, some columns at a time: a bank is too large for a second one beside it."""
    for columns in rows.split(64, dim=1):
        columns.copy_(columns[order])
    return rows


def state_bytes(metric: Metric) -> int:
    """Bytes that a metric alone sums into, its parts not counted; those of a sample when it is full."""
    if isinstance(metric, Sample):
        return metric.keys.nbytes + metric.size * metric.rows.shape[1] * metric.rows.element_size()
    return sum(value.nbytes for value in metric.metric_state.values() if isinstance(value, Tensor))
