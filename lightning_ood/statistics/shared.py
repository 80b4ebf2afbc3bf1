"""Statistics that several detectors share: each batch is added once and derived results are computed once."""

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

    If several detectors in one scope (``NetworkInfo.sharing``) ask for the same statistic, the first owns it.
    """
    build = partial(make, *arguments)
    if info.scope is None:
        return Shared(build)
    key = (make, arguments)
    handle: Shared[S] = Shared(build, info.scope.get(key))
    info.scope.setdefault(key, handle)
    return handle


class Shared(nn.Module, Generic[S]):
    """A detector's reference to a statistic. Its owner updates, resets, moves and merges it; the others only read it.

    A detector uses the owner's statistic only while it is updated with the same objects, right after the owner. If its
    first batch is anything else (a normalised copy, a subset of the images), it gets a statistic of its own. No
    detector can therefore change the numbers of another one.

    Args:
        build: builds an empty statistic.
        owner: the reference of the detector that owns the statistic; None if this is the owner.

    Attributes:
        batches: number of batches that this detector has added.
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
        """The statistic of this detector, or else the owner's."""
        statistic = self._holder._own
        assert statistic is not None  # an owner always has one
        return statistic

    @property
    def _holder(self) -> Shared[S]:
        return self if self._own is not None else self._owner[0]

    def update(self, *values: Any) -> None:
        """Updates the statistic with ``values``, unless the owner has just done so.

        Raises:
            RuntimeError: if this detector shared earlier batches with the owner and is now given another batch.
        """
        owner = self._holder
        if owner is not self and not (owner.batches == self.batches + 1 and owner._is_latest(values)):
            self._separate()
        if self._own is not None:
            self._own.update(*values)
            self._latest = tuple(ref(value) for value in values if value is not None)
            self._cache = {}
        self.batches += 1

    def _is_latest(self, values: tuple[Any, ...]) -> bool:
        current = [value for value in values if value is not None]
        latest = [reference() for reference in self._latest]
        return len(current) == len(latest) and all(a is b for a, b in zip(current, latest, strict=True))

    def _separate(self) -> None:
        """Gives this detector an empty statistic of its own."""
        if self.batches:
            raise RuntimeError(
                f"a detector shared {self.batches} batches of {type(self.statistic).__name__} with another one, and "
                "the two were now given different features: call update with the same features for every batch, or "
                "give the detector a scope of its own with info.sharing() in setup"
            )
        device = self.statistic.device
        self._own = self._build().to(device)

    def settle(self) -> None:
        """Makes all processes agree on whether this detector has a statistic of its own. Called before every fit.

        A process without images cannot know it by itself.
        """
        if not self._owner:
            return
        if self._own is None and self._holder.batches != self.batches:
            self._separate()
        separate = torch.tensor([int(self._own is not None)], device=self.statistic.device)
        if bool(gather(separate).any()) and self._own is None:
            self._own = copy.deepcopy(self.statistic)  # on this process the owner and this detector saw the same

    def once(self, what: Hashable, compute: Callable[[], T]) -> T:
        """Memoises a result that several detectors derive from this statistic, until new data is added."""
        cache = self._holder._cache
        if what not in cache:
            cache[what] = compute()
        return cache[what]

    def compute(self) -> Any:
        """Computes the statistic over all processes, memoised."""
        return self.once("compute", self.statistic.compute)

    def reset(self) -> None:
        """Drops all batches and shares the owner's statistic again."""
        if self._owner:
            self._own = None
        else:
            self.statistic.reset()
        self.batches, self._latest, self._cache = 0, (), {}

    def merge_state(self, incoming: Shared[S]) -> None:
        """Merges the statistic of the same detector on another part of the stream.

        Raises:
            RuntimeError: if the detector shared the owner's statistic on one part and had its own on the other.
        """
        if self._own is None and incoming._own is not None:
            self._separate()
        if self._own is not None and incoming.batches:  # a shared statistic is merged by its owner
            self._own.merge_state(incoming.statistic)
        self.batches += incoming.batches
        self._latest, self._cache = (), {}
