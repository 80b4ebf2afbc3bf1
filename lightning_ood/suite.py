"""What detectors have fitted: name -> tensors, each kept once, moved, checked against the detectors that want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError, about

Fits = dict[str, dict[str, Tensor]]


def computed(detectors: Mapping[str, Detector], fits: Fits) -> list[str]:
    """Adds to ``fits`` what the detectors fit, and says of those that cannot why: one does not lose the others' pass.

    Every process meets the same errors, since each detector computes from what all of them hold.
    """
    refused = []
    for name, detector in detectors.items():
        with about(f"fitting detector {name!r}"):
            try:
                fits[name] = taken(fits, detector.compute())
            except (InputError, torch.linalg.LinAlgError) as error:  # the latter where features are not finite
                refused.append(f"detector {name!r}: {error}")
    return refused


def taken(fits: Fits, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fitted tensors on the CPU; for one that another detector fitted too (a bank of neighbours), that one's."""
    known = [value for tensors in fits.values() for value in tensors.values()]

    def first(value: Tensor) -> Tensor:
        alike = (k for k in known if k.shape == value.shape and k.dtype == value.dtype and k.equal(value))
        return next(alike, value)

    return {key: first(value.detach().cpu()) for key, value in fitted.items()}


def moved(fits: Fits, device: torch.device | str) -> Fits:
    """The same on another device; a tensor that several detectors share stays one.

    A whole number stays on the host: it says which block or candidate was chosen, and the host reads it every batch.
    """
    there: dict[tuple[Any, ...], Tensor] = {}

    def move(value: Tensor) -> Tensor:
        if value.dim() == 0 and not value.is_floating_point():
            return value.cpu()
        memory = (value.data_ptr(), value.shape, value.stride(), value.dtype)  # a file tells it too, the object not
        if memory not in there:
            there[memory] = value.to(device)
        return there[memory]

    return {name: {key: move(value) for key, value in fitted.items()} for name, fitted in fits.items()}


def not_numbers(fits: Fits) -> list[str]:
    """``detector: tensor`` of each one that holds a NaN."""
    return [
        f"{name}: {key}"
        for name, fitted in fits.items()
        for key, value in fitted.items()
        if value.is_floating_point() and value.isnan().any()
    ]


def check(state: Mapping[str, Any], detectors: Mapping[str, Detector]) -> None:
    """Whether a saved fit serves detectors.

    Args:
        state: ``fitted`` and ``spec`` by name.
        detectors: those that need a fit.

    Raises:
        InputError: if one has none there, or was fitted with other arguments.
    """
    missing = [name for name in detectors if name not in state["fitted"]]
    if missing:
        raise InputError(
            f"not fitted: {', '.join(missing)} (fitted are: {', '.join(state['fitted']) or 'none'}). "
            "Run `python train.py fit` with the same --config first"
        )
    for name, detector in detectors.items():
        was, now = state["spec"].get(name), detector.spec()
        if was != now:
            raise InputError(
                f"detector {name!r} was fitted as {was} and is now {now}. Run `python train.py fit` again, or give "
                "it the arguments it was fitted with"
            )
