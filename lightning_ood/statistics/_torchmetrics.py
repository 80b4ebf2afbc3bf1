"""The only file that touches internals of torchmetrics. ``tests/test_torchmetrics.py`` checks that they exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torchmetrics import Metric

# Attributes of a Metric that torchmetrics does not document, or that `_wrap_compute` relies on.
INTERNALS = ("_to_sync", "_should_unsync", "_wrap_compute", "dist_sync_fn", "sync_context", "update_called")


class Accumulator(Metric):
    """A torchmetrics ``Metric`` of which a process may see no batch at all."""

    full_state_update = False
    update_called = (
        True  # replaces a property: torchmetrics warns of a compute without an update, here it is no mistake
    )


class UncachedAccumulator(Accumulator):
    """An accumulator whose ``compute`` synchronises all processes and keeps no copy of its result.

    torchmetrics' own wrapper stores the result in the metric and squeezes it.
    """

    def before_sync(self) -> None:
        """Runs on every process before the states are synchronised. The default does nothing."""

    def _wrap_compute(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """Replaces torchmetrics' wrapper around ``compute``; ``Metric.__init__`` calls it."""

        @functools.wraps(compute)
        def synchronised() -> Any:
            self.before_sync()
            sync, unsync = self._to_sync, self._should_unsync
            with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=sync, should_unsync=unsync):
                return compute()

        return synchronised
