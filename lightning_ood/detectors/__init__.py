"""The detectors, one file per paper.

``from lightning_ood.detectors import KNN`` searches all files of this folder for the class. There is no registry: a new
file is found as soon as it exists.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_ood.detectors.base import Detector

_CLASS = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)


@cache
def _modules() -> dict[str, str]:
    """Maps the name of each class defined in this folder to its module, without importing any."""
    found: dict[str, str] = {}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        spec = find_spec(info.name)
        if not info.ispkg and spec is not None and spec.origin is not None:
            found |= dict.fromkeys(_CLASS.findall(Path(spec.origin).read_text(encoding="utf-8")), info.name)
    return found


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _modules():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_modules()[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})


def list_detectors() -> dict[str, type[Detector]]:
    """Maps the class name of every detector in this folder to its class, sorted by name, without abstract bases."""
    from lightning_ood.detectors.base import Detector

    classes = {name: getattr(import_module(module), name) for name, module in sorted(_modules().items())}
    return {
        name: kind
        for name, kind in sorted(classes.items(), key=lambda item: item[0].lower())
        if issubclass(kind, Detector) and not inspect.isabstract(kind)
    }
