"""Bounded summaries of a stream that merge: what a detector keeps where a sum is not enough."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside

T = TypeVar("T")

_MANTISSA_BITS = 11  # of float32's 23: a bin is 2**-11 = 0.05 % wide
_SHIFT = 23 - _MANTISSA_BITS
_BINS = 2 ** (31 - _SHIFT)  # for one sign
_NONE = torch.iinfo(torch.int64).max  # the key of a row that is not there


def _join(stacked: Tensor) -> Tensor:
    """Concatenates what the processes hold: ``[world, n, ...] -> [world * n, ...]``."""
    return stacked.flatten(0, 1)


class Sketch(Metric):
    """Sums that may be computed at any time: on a process without images, and again after a merge."""

    full_state_update = False
    update_called = True  # a process without images is no mistake: torchmetrics need not warn of it
    shared = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, **kwargs)  # merging would not clear the cache
        self._taken: ref | None = None
        self._known: dict[Hashable, Any] = {}

    def share(self) -> None:
        """From now on several detectors hold it: a batch is added once, and what it amounts to is computed once."""
        self.shared = self.compute_with_cache = True

    def takes(self, batch: object) -> bool:
        """Whether the one who asks should add this batch: always where one detector holds it, else the first."""
        if not self.shared:
            return True
        first = self._taken is None or self._taken() is not batch
        self._taken = ref(batch)
        if first:
            self._known = {}
        return first

    def once(self, what: Hashable, compute: Callable[[], T]) -> T:
        """What the detectors that hold it compute alike from it, until more is added: by the first that asks."""
        if not self.shared:
            return compute()
        if what not in self._known:
            self._known[what] = compute()
        return self._known[what]

    def reset(self) -> None:
        """Back to nothing."""
        super().reset()
        self._taken, self._known = None, {}

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Takes in the sums of another one: once, where several detectors hold both."""
        if self.takes(incoming_state):
            super().merge_state(incoming_state)
            self._computed = None


def own(state: Tensor) -> Tensor:
    """A state as memory that may be written to: a copy of a view, or of what inference mode made outside of it."""
    if not state.is_contiguous() or (state.is_inference() and not torch.is_inference_mode_enabled()):
        return state.clone(memory_format=torch.contiguous_format)
    return state


class QuantileSketch(Sketch):
    """Any quantile of a stream of numbers, to 0.05 % of its value.

    A histogram over float32 bit patterns: sign, exponent and the first 11 bits of the mantissa name the bin, so the
    bins are relative (0.05 % wide) from the smallest normal number to the largest, and no range has to be known.
    Integer counts: the result does not depend on order, batches or processes. State: 8 MiB.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2 * _BINS, dtype=torch.int64), "sum")

    def update(self, values: Tensor) -> None:
        """Counts every entry of ``values`` (any shape, finite)."""
        bits = values.detach().float().contiguous().flatten().view(torch.int32) & 0x7FFFFFFF
        magnitude = (bits >> _SHIFT).to(torch.int64)
        negative = values.flatten() < 0
        bin_index = torch.where(negative, _BINS - 1 - magnitude, _BINS + magnitude)
        self.counts = count(own(self.counts), bin_index)

    def compute(self) -> Tensor:
        """The counts over all processes, for :func:`quantile`."""
        return self.counts


def count(counts: Tensor, bins: Tensor) -> Tensor:
    """Adds 1 to the entries ``bins`` of ``counts``, both flat int64, in place; the device is not waited for."""
    return counts.scatter_add_(0, bins, counts.new_ones(1).expand_as(bins))


def quantile(counts: Tensor, q: float | Tensor) -> Tensor:
    """Quantiles from a sketch's counts, interpolated linearly between order statistics and inside a bin.

    Args:
        counts: ``[2 * bins]``, what ``QuantileSketch.compute`` gave.
        q: one or more quantiles in [0, 1], as a number or a tensor.

    Returns:
        float64, of the shape of ``q``; NaN where nothing was counted.
    """
    filled = counts.nonzero().flatten()  # quantiles need only the bins that hold something
    q = torch.as_tensor(q, dtype=torch.float64, device=counts.device)
    if filled.numel() == 0:
        return torch.full_like(q, torch.nan)
    held = counts[filled].double()
    total = held.cumsum(0)
    rank = q * (total[-1] - 1)

    def order_statistic(i: Tensor) -> Tensor:
        at = torch.searchsorted(total, i, right=True).clamp(max=len(filled) - 1)
        low, high = _edges(filled[at])
        return low + (high - low) * ((i - (total[at] - held[at]) + 0.5) / held[at]).clamp(0, 1)

    below, above = order_statistic(rank.floor()), order_statistic(rank.ceil())
    return below + (above - below) * (rank - rank.floor())


def _edges(bin_index: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper end of bins, float64."""
    negative = bin_index < _BINS
    magnitude = torch.where(negative, _BINS - 1 - bin_index, bin_index - _BINS)
    small = (magnitude << _SHIFT).to(torch.int32).view(torch.float32).double()
    top = ((magnitude + 1).clamp(max=_BINS // 256 * 255 - 1) << _SHIFT).to(torch.int32).view(torch.float32).double()
    return torch.where(negative, -top, small), torch.where(negative, -small, top)


class Sample(Sketch):
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
