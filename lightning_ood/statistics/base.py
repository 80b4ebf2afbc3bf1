"""What detectors sum up over a stream of batches: exact on any number of processes, of bounded size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Statistic(Metric):
    """A mergeable state whose ``compute`` may be called at any time, even with no images or after a merge."""

    full_state_update = False
    update_called = True  # a process without images is no mistake: torchmetrics need not warn of it

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, **kwargs)  # merging would not clear the cache


def own(state: Tensor) -> Tensor:
    """Returns ``state``, cloned if it cannot be written in place (a view, or an inference tensor outside that mode)."""
    if not state.is_contiguous() or (state.is_inference() and not torch.is_inference_mode_enabled()):
        return state.clone(memory_format=torch.contiguous_format)
    return state
