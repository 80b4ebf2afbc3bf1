"""One statistic for several detectors: each batch is added once, and what follows from it is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import nn

from lightning_ood.features import NetworkInfo
from lightning_ood.ops.processes import gather
from lightning_ood.statistics.base import Statistic

S = TypeVar("S", bound=Statistic)
T = TypeVar("T")


def share(info: NetworkInfo, make: Callable[..., S], *arguments: Hashable) -> Shared[S]:
    """Returns a statistic ``make(*arguments)``, for a detector's ``setup``.

    Of the detectors in one scope (``NetworkInfo.sharing``) that ask for the same one, the first owns it.
    """
    build = partial(make, *arguments)
    if info.scope is None:
        return Shared(build)
    key = (make, arguments)
    mine: Shared[S] = Shared(build, info.scope.get(key))
    info.scope.setdefault(key, mine)
    return mine


class Shared(nn.Module, Generic[S]):
    """A detector's hold on a statistic. The owner updates, resets, moves and merges it; the others refer to it.

    A detector refers to the owner's statistic only while it is updated with the same objects, right after the owner.
    Given anything else (a normalised copy, a part of the batch) it gets a statistic of its own from its first batch
    on, so that no detector can make its neighbour's numbers wrong.

    Args:
        build: makes the statistic.
        owner: the hold of the detector that owns it; None where this one does.

    Attributes:
        batches: how many batches this detector has added.
    """

    def __init__(self, build: Callable[[], S], owner: Shared[S] | None = None) -> None:
        super().__init__()
        self._build = build
        self._owner: tuple[Shared[S], ...] = (
            () if owner is None else (owner,)
        )  # a tuple: not registered, so not reset or moved twice
        self._own: S | None = build() if owner is None else None
        self.batches = 0
        self._latest: tuple[ref[Any], ...] = ()  # arguments of the last update of the own statistic
        self._cache: dict[Hashable, Any] = {}

    @property
    def statistic(self) -> S:
        """The own statistic, or the owner's."""
        found = self._holder._own
        assert found is not None  # an owner has one
        return found

    @property
    def _holder(self) -> Shared[S]:
        return self if self._own is not None else self._owner[0]

    def update(self, *values: Any) -> None:
        """Updates the statistic with ``values``, unless the owner has just done so.

        Raises:
            RuntimeError: if this detector shared earlier batches with the owner and now brings another one.
        """
        owner = self._holder
        if owner is not self and not (owner.batches == self.batches + 1 and owner._is_latest(values)):
            self._part()
        if self._own is not None:
            self._own.update(*values)
            self._latest = tuple(ref(value) for value in values if value is not None)
            self._cache = {}
        self.batches += 1

    def _is_latest(self, values: tuple[Any, ...]) -> bool:
        given = [value for value in values if value is not None]
        latest = [reference() for reference in self._latest]
        return len(given) == len(latest) and all(a is b for a, b in zip(given, latest, strict=True))

    def _part(self) -> None:
        """Gives this detector a statistic of its own, empty."""
        if self.batches:
            raise RuntimeError(
                f"a detector shared {self.batches} batches of {type(self.statistic).__name__} with another one, which "
                f"now was given other features than it: call update with the same features for every batch, or give "
                "the detector a scope of its own with info.sharing() in setup"
            )
        device = self.statistic.device
        self._own = self._build().to(device)

    def settle(self) -> None:
        """Makes all processes agree whether this detector has a statistic of its own; each calls it before a fit.

        A process without images cannot tell by itself.
        """
        if not self._owner:
            return
        if self._own is None and self._holder.batches != self.batches:
            self._part()
        parted = torch.tensor([int(self._own is not None)], device=self.statistic.device)
        if bool(gather(parted).any()) and self._own is None:
            self._own = copy.deepcopy(self.statistic)  # what was added here, to both alike

    def once(self, what: Hashable, compute: Callable[[], T]) -> T:
        """Memoises a result that several detectors derive from this statistic, until new data is added."""
        cache = self._holder._cache
        if what not in cache:
            cache[what] = compute()
        return cache[what]

    def compute(self) -> Any:
        """What the statistic computes, over all processes, memoised."""
        return self.once("compute", self.statistic.compute)

    def reset(self) -> None:
        """Forgets all batches, and refers to the owner again."""
        if self._owner:
            self._own = None
        else:
            self.statistic.reset()
        self.batches, self._latest, self._cache = 0, (), {}

    def merge_state(self, incoming: Shared[S]) -> None:
        """Adds what the same detector holds on another part of the stream.

        Raises:
            RuntimeError: if it shared the owner's statistic on one part and brought other features on the other.
        """
        if self._own is None and incoming._own is not None:
            self._part()
        if self._own is not None and incoming.batches:  # else the owner merges
            self._own.merge_state(incoming.statistic)
        self.batches += incoming.batches
        self._latest, self._cache = (), {}
