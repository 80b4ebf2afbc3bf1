"""Imports torchmetrics and timm without what only a training needs; tests/test_private.py checks that the parts exist.

A detector is a ``torchmetrics.Metric``. ``import torchmetrics`` also imports every metric, torchvision, scipy.signal
and matplotlib, which takes twice as long as torch itself, and a detector that only scores needs none of them. timm
imports wandb where it is installed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PLOT = "torchmetrics.utilities.plot"  # imports matplotlib


class Later(ModuleType):
    """A module that runs its own code when a name is first asked for that it does not have yet."""

    def run(self) -> None:
        """Runs the module's code; it is an ordinary module afterwards."""
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.run()
        return getattr(self, name)


def metric_alone() -> None:
    """Imports ``torchmetrics.Metric``; the rest of torchmetrics is imported when a name of it is first used.

    Does nothing where torchmetrics has been imported, or has not the parts that this relies on.
    """
    if "torchmetrics" in sys.modules or (spec := find_spec("torchmetrics")) is None or spec.origin is None:
        return
    package: Any = module_from_spec(spec)
    package.__class__ = Later
    package._logger = logging.getLogger("torchmetrics")  # what its parts import of it
    plot = _plot(Path(spec.origin).parent)
    sys.modules |= {"torchmetrics": package, PLOT: plot}
    try:
        parts = import_module("torchmetrics.utilities")
        package.Metric = import_module("torchmetrics.metric").Metric
    except (ImportError, AttributeError):  # a version that is made of other parts
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]
    else:
        parts.plot = plot  # type: ignore[attr-defined]


def _plot(folder: Path) -> ModuleType:
    """Returns a stand-in for torchmetrics' module of plots, which runs the module when something is plotted."""
    spec = spec_from_file_location(PLOT, folder / "utilities" / "plot.py")
    assert spec is not None
    plot: Any = module_from_spec(spec)
    plot.__class__ = Later
    plot._AX_TYPE = plot._PLOT_OUT_TYPE = object  # names in annotations

    def plot_single_or_multi_val(*args: Any, **kwargs: Any) -> Any:
        if isinstance(plot, Later):
            plot.run()  # puts the module's own function in the place of this one
        return plot.plot_single_or_multi_val(*args, **kwargs)

    plot.plot_single_or_multi_val = plot_single_or_multi_val
    return plot


class Proxy(ModuleType):
    """Stands for a module that is imported when a name of it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(self.__name__), name)


@contextmanager
def without_wandb() -> Iterator[None]:
    """Keeps timm from importing wandb inside the block; timm imports it when it first logs to it."""
    stands_in = "wandb" not in sys.modules and find_spec("wandb") is not None
    if stands_in:
        sys.modules["wandb"] = Proxy("wandb")
    try:
        yield
    finally:
        if stands_in and isinstance(sys.modules.get("wandb"), Proxy):
            del sys.modules["wandb"]
