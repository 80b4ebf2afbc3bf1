"""Detectors that hold others: their parts, and the names of what the parts fit."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torchmetrics import Metric


def nest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts a part's fitted tensors under ``prefix.``."""
    return {f"{prefix}.{key}": value for key, value in fitted.items()}


def unnest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of ``fitted`` that :func:`nest` put under ``prefix.``."""
    return {key[len(prefix) + 1 :]: value for key, value in fitted.items() if key.startswith(f"{prefix}.")}


def metrics_in(module: nn.Module) -> Iterator[Metric]:
    """The detectors and sketches that a module holds directly, in containers too."""
    for child in module.children():
        if isinstance(child, Metric):
            yield child
        else:
            yield from metrics_in(child)
