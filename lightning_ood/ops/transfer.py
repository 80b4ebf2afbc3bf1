"""Copies between host and device: without a wait inside a pass, and of tensors that several owners share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def beside(value: Tensor, other: Tensor) -> Tensor:
    """Copies ``value`` to the device of ``other``.

    A copy from the host does not block (a plain ``.to`` waits for all work queued on the device). A copy to the host
    blocks, since the host would otherwise read memory that is not yet written.
    """
    queued = value.device.type == "cpu" and other.device.type != "mps"  # MPS may read host memory after it was freed
    return value.to(other.device, non_blocking=queued)


class Mover:
    """Moves fitted tensors to a device. A tensor that several detectors share is moved once and stays shared."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}  # id -> original, copy; keeping the original keeps its id

    def __call__(self, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors on the device."""
        return {key: self._move(value) for key, value in fitted.items()}

    def _move(self, value: Tensor) -> Tensor:
        if id(value) not in self._moved:
            scalar = value.dim() == 0 and not value.is_floating_point()  # an index, which the host reads
            self._moved[id(value)] = (value, value.detach().to("cpu" if scalar else self._device))
        return self._moved[id(value)][1]
