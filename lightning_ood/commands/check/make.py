"""Makes one part of a config at a time, so that one that fails does not hide the others."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser
from torch.utils.data import Dataset

from lightning_ood.data.downloads import build


def make(kind: Any, value: Any) -> Any:
    """What a value of a config stands for.

    Args:
        kind: a type hint; class paths become objects.
        value: in plain values.

    Raises:
        Exception: whatever the parser or the class refuses the value with.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    parser.add_instantiator(build, Dataset)
    return parser.instantiate_classes(parser.parse_object({"value": value}))["value"]


def make_class(kind: type, arguments: dict[str, Any]) -> Any:
    """An object of a class that takes these arguments, in plain values."""
    return make(kind, {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments})
