"""A bounded, uniform sample of the rows of a stream, the same on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.base import Statistic, own

_NONE = torch.iinfo(torch.int64).max  # the key of an empty row


def _join(stacked: Tensor) -> Tensor:
    """Concatenates the states of all processes: ``[world, n, ...] -> [world * n, ...]``."""
    return stacked.flatten(0, 1)


class Sample(Statistic):
    """A bounded, uniform sample of the rows of a stream: the ``size`` rows with the smallest hash of the image index.

    The sample depends on the seed and the image indices alone, so it is the same for any order, batching and number of
    processes. State: ``size * (width + 1)`` numbers on each process. Gathering needs the same amount once more, for any
    number of processes: keys are compared first, then each process sends only the rows of the final sample.

    Args:
        size: largest number of rows.
        width: numbers per row.
        seed: seed of the sample.
        dtype: dtype of the rows.
    """

    keys: Tensor
    rows: Tensor

    def __init__(self, size: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(sync_on_compute=False)  # `draw` gathers rows itself
        self.size, self.seed = size, seed
        self.add_state("keys", torch.full((size,), _NONE), _join)
        self.add_state("rows", torch.zeros(0, width, dtype=dtype), _join)  # allocated at the first update
        self._drawn: Tensor | None = None

    def update(self, rows: Tensor, index: Tensor) -> None:
        """Considers ``rows`` ``[B, width]`` of the images ``index`` ``[B]`` for the sample."""
        keys = beside(hash_index(index, self.seed), rows)  # [B]
        if self.size < len(keys):  # at most `size` rows of a batch can enter
            keys, best = keys.topk(self.size, largest=False)
            rows = rows[best]
        # New rows replace those with the largest keys, in place: no copy of the whole sample, no wait for the device.
        worst, slots = self.keys.topk(min(len(keys), self.size), largest=True)  # [min(B, size)], descending
        keys, best = keys.sort()  # ascending, so that the smallest new key meets the largest old one
        enters = keys < worst  # [min(B, size)]
        self._make_room()
        self.rows = own(self.rows) if self._drawn is None else self.rows.clone()  # a caller of `draw` has the old rows
        self._drawn = None
        self.keys = self.keys.index_copy(0, slots, torch.where(enters, keys, worst))
        entering = torch.where(enters[:, None], rows[best].to(self.rows.dtype), self.rows[slots])
        self.rows.index_copy_(0, slots, entering)

    def merge_state(self, incoming_state: dict | Metric) -> None:
        """Merges another sample of the same size and seed into this one."""
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
        """Empties the sample."""
        super().reset()
        self._drawn = None

    def compute(self) -> Tensor:
        """Returns a copy of the rows of :meth:`draw`."""
        return self.draw()

    def draw(self) -> Tensor:
        """Returns the sampled rows over all processes, in the order of their keys; not to be written to.

        Returns:
            ``[n, width]``, n the smaller of ``size`` and the number of rows seen.
        """
        if self._drawn is None:
            self._drawn = self._gathered_rows()
        return self._drawn

    def _gathered_rows(self) -> Tensor:
        with torch.inference_mode(self.rows.is_inference()):  # an inference tensor is writable in inference mode alone
            return self._gather_and_sort()

    def _gather_and_sort(self) -> Tensor:
        self._make_room()
        self.keys, order = self.keys.sort()
        self.rows = _sort_rows(own(self.rows), order)
        all_keys = gather(self.keys)  # [world * size]
        largest = all_keys.sort().values[: self.size][-1:]  # [1], the largest key of the final sample
        selected = int(((self.keys <= largest) & (self.keys != _NONE)).sum())
        if len(all_keys) == len(self.keys):  # one process
            # Cloned if the sample is not full: torch.save writes the whole storage of a slice.
            return self.rows if selected == self.size else self.rows[:selected].clone()
        return _sort_rows(gather(self.rows[:selected]), gather(self.keys[:selected]).argsort())


def _sort_rows(rows: Tensor, order: Tensor) -> Tensor:
    """Reorders ``rows`` ``[n, width]`` to ``rows[order]`` in place, 64 columns at a time, to save memory."""
    for columns in rows.split(64, dim=1):
        columns.copy_(columns[order])
    return rows


def state_bytes(metric: Metric) -> int:
    """Returns the size in bytes of a metric's states, without its children's; for a sample, of a full one."""
    if isinstance(metric, Sample):
        return metric.keys.nbytes + metric.size * metric.rows.shape[1] * metric.rows.element_size()
    return sum(value.nbytes for value in metric.metric_state.values() if isinstance(value, Tensor))
