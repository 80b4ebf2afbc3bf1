"""Loggers whose failures end no run: each is told once, and the files of the run are complete without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_ood.report import warn_on_failure

_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
_NAMES = ("log_dir", "root_dir", "save_dir", "name", "version")
_FAILED = "_members_that_failed"


class Nothing:
    """Stands in for an experiment that could not be made: takes every call, and keeps nothing."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Nothing:  # noqa: D102
        return self

    def __getitem__(self, key: Any) -> Nothing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def guard(logger: Logger) -> None:
    """Makes a logger warn where it would raise; its class keeps its name and stays a subclass of what it was."""
    logger.__class__ = _guarded(type(logger))


@cache
def _guarded(kind: type) -> type:
    members: dict[str, Any] = {name: _method(getattr(kind, name)) for name in _METHODS if hasattr(kind, name)}
    for name in (*_NAMES, "experiment"):
        if isinstance(found := getattr(kind, name, None), property):
            members[name] = _property(name, found, Nothing() if name == "experiment" else None)
    return type(kind.__name__, (kind,), {**members, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _attempt(self, call.__name__, lambda: call(self, *args, **kwargs), None)

    return guarded


def _property(name: str, found: property, otherwise: Any) -> property:
    def guarded(self: Any) -> Any:
        if name == "experiment" and name in vars(self).get(_FAILED, ()):
            return otherwise  # asking again may take as long as the first time
        return _attempt(self, name, lambda: found.__get__(self), otherwise)

    return property(guarded)


def _attempt(logger: Any, name: str, call: Callable[[], Any], otherwise: Any) -> Any:
    """Returns what a member of a logger gives, or ``otherwise`` where it raises; the first time with a warning."""
    failed: set[str] = vars(logger).setdefault(_FAILED, set())
    result = otherwise
    with warn_on_failure(logger, name not in failed):
        try:
            result = call()
        except Exception:
            failed.add(name)
            raise
    return result
