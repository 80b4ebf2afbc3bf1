"""Objects as plain JSON and back: class path and arguments of a detector, a rule, a view or a network."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from torch import nn

from lightning_ood.errors import InputError

# Packages whose classes run without the user's consent.
OURS = ("lightning_ood.detectors.", "lightning_ood.views.", "lightning_ood.networks.", "lightning_ood.statistics.")


def describe(value: Any) -> Any:
    """Describes a value in JSON: plain values as they are, objects as ``{"class_path": …, "init_args": …}``.

    Raises:
        InputError: if the value is neither plain, nor a module whose arguments are attributes, nor a dataclass.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [describe(item) for item in value]}
    if isinstance(value, list):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[describe(key), describe(item)] for key, item in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    elif isinstance(value, nn.Module):
        names = list(inspect.signature(type(value).__init__).parameters)[1:]
        arguments = {name: getattr(value, name) for name in names}
    else:
        raise InputError(
            f"a {type(value).__name__} among the arguments of a detector cannot be exported: write a number, a string, "
            "a list, a detector or a dataclass"
        )
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    return {"class_path": path, "init_args": {name: describe(item) for name, item in arguments.items()}}


def construct(spec: Any, trust_code: bool = False) -> Any:
    """Builds what :func:`describe` described.

    Args:
        spec: the description.
        trust_code: whether to import and call classes of other packages than this one.

    Raises:
        InputError: if a class cannot be imported or called, or needs the user's consent.
    """
    if isinstance(spec, list):
        return [construct(item, trust_code) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "float" in spec:
        return float(spec["float"])
    if "tuple" in spec:
        return tuple(construct(item, trust_code) for item in spec["tuple"])
    if "dict" in spec:
        return {construct(key, trust_code): construct(item, trust_code) for key, item in spec["dict"]}
    arguments = {name: construct(item, trust_code) for name, item in spec.get("init_args", {}).items()}
    kind = find_class(spec["class_path"], trust_code)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{spec['class_path']}: {error}; use the version that the folder was exported with") from error


def find_class(path: str, trust_code: bool = False) -> type:
    """Imports a class.

    Raises:
        InputError: if it is of another package and ``trust_code`` is False, or does not exist.
    """
    if not (path.startswith(OURS) or trust_code):
        raise InputError(
            f"the folder names the class {path}, which is code of another package than lightning_ood: loading it "
            "imports and runs that code. Where you trust it, give trust_code=True (--trust_code)"
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"there is no class {path} here ({error}): install the package that defines it") from error
    if not isinstance(found, type) and not (trust_code and callable(found)):  # a function that returns a network
        raise InputError(f"{path} is a {type(found).__name__}, not a class")
    return found
