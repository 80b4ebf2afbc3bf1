"""Helpers of the base class: child detectors, nested fits, arguments as plain values, a check around ``score``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from lightning_ood.errors import InputError
from lightning_ood.features import Features
from lightning_ood.statistics import Shared


def nest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefixes the names of a child's fitted tensors with ``prefix.``."""
    return {f"{prefix}.{key}": value for key, value in fitted.items()}


def unnest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the child's fitted tensors that :func:`nest` stored under ``prefix.``."""
    return {key[len(prefix) + 1 :]: value for key, value in fitted.items() if key.startswith(f"{prefix}.")}


def children(module: nn.Module) -> Iterator[Metric | Shared]:
    """Yields the detectors and statistics that are attributes of a module, or inside containers of modules."""
    for child in module.children():
        if isinstance(child, Metric | Shared):
            yield child
        else:
            yield from children(child)


def arguments(detector: nn.Module) -> dict[str, Any]:
    """Reads the arguments of a detector's ``__init__`` from the attributes of the same names."""
    parameters = list(inspect.signature(type(detector).__init__).parameters)[1:]
    missing = [name for name in parameters if not hasattr(detector, name)]
    if missing:
        raise AttributeError(
            f"{type(detector).__name__}.__init__ takes {missing[0]!r} and sets no attribute of that name: write "
            f"`self.{missing[0]} = {missing[0]}`, so that a saved fit can be compared with it"
        )
    return {name: getattr(detector, name) for name in parameters}


def plain(value: Any) -> Any:
    """Converts a value to numbers, strings, lists and dicts, so that a checkpoint has no pickled classes."""
    if hasattr(value, "config"):
        return value.config()
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **plain(asdict(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def after_fit(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wraps a scoring method so that it raises if the detector requires a fit and ``fitted`` is empty."""

    @functools.wraps(score)
    def checked(self: Any, features: Features, fitted: Mapping[str, Tensor]) -> Tensor:
        if not fitted and self.requires_fit:
            raise InputError(f"{type(self).__name__} can score only after a fit: run `python train.py fit` first")
        return score(self, features, fitted)

    return checked
