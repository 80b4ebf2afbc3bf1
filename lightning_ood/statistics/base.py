"""The base class of statistics: sums over a stream of batches, of bounded size, exact on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ood.statistics._torchmetrics import Accumulator


class Statistic(Accumulator):
    """A mergeable state whose ``compute`` may be called at any time, even with no images or after a merge."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, **kwargs)  # torchmetrics does not clear the cache on a merge


def own(state: Tensor) -> Tensor:
    """Returns ``state``, cloned if it cannot be written in place (a view, or an inference tensor outside that mode)."""
    if not state.is_contiguous() or (state.is_inference() and not torch.is_inference_mode_enabled()):
        return state.clone(memory_format=torch.contiguous_format)
    return state
