"""The arguments that a detector was made with, in plain values: what a saved fit is compared with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that also keeps its arguments; of a chain of classes the outermost keeps them."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in vars(self):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            object.__setattr__(self, "_arguments", dict(list(bound.arguments.items())[1:]))
        init(self, *args, **kwargs)

    return wrapped


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts; what a checkpoint can hold without pickled classes."""
    if hasattr(value, "spec"):
        return value.spec()
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **plain(asdict(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
