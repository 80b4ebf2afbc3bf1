"""Assertions of the detector contract; each error names the detector and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError


def require(holds: bool, detector: Detector, rule: str) -> None:
    """Raises unless ``holds``.

    Raises:
        AssertionError: naming the detector and the rule.
    """
    if not holds:
        raise AssertionError(f"{type(detector).__name__} breaks the rule: {rule}")


def require_same(scores: Tensor, expected: Tensor, detector: Detector, rule: str) -> None:
    """Raises if scores differ by more than 1e-4 of the largest; kernels for other batch sizes round differently.

    Raises:
        AssertionError: naming the detector, the rule and the difference.
    """
    scale = float(expected.abs().max())
    error = float((scores.double() - expected.double()).abs().max())
    require(error <= 1e-4 * scale, detector, f"{rule} (scores of size {scale:.3g} differ by {error:.3g})")


def require_refusal(call: Callable[[], Any], detector: Detector, rule: str) -> None:
    """Raises unless ``call`` raises an ``InputError``.

    Raises:
        AssertionError: naming the detector and the rule.
    """
    try:
        call()
    except InputError:
        return
    require(False, detector, rule)
