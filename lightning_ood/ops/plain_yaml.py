"""Reads YAML whose aliases cannot blow it up: ten lines of YAML may stand for a billion values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from lightning_ood.errors import InputError

LARGEST = 1_000_000  # characters and values of a file, with every alias written out

_BYTE = re.compile(r"\\u[dD][c-fC-F]")  # of a path that is no UTF-8, as PyYAML writes it; libyaml does not read it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def plain_yaml(text: str, load: Callable[[str], Any] | None = None) -> Any:
    """Reads YAML of plain values.

    Args:
        text: YAML.
        load: reads it in another way, as a parser of arguments does.

    Raises:
        yaml.YAMLError: if it is no YAML, names a Python object, or is larger than :data:`LARGEST` once its aliases are
            written out.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"{len(text)} characters, and at most {LARGEST} are read")
    try:
        loader = yaml.SafeLoader if _BYTE.search(text) else _Loader
        if "&" in text and "*" in text:  # an anchor and an alias
            node = yaml.compose(text, loader)
            if _size(node, {}) > LARGEST:
                raise yaml.YAMLError(f"its aliases stand for more than {LARGEST} values: write out what is meant")
        return yaml.load(text, loader) if load is None else load(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply, or an alias stands inside of what it is an alias of") from None
    except ValueError as error:  # a date or a number that does not exist, such as 2024-13-01
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def read_yaml(text: str, where: object, advice: str = "correct it") -> Any:
    """Reads YAML of plain values.

    Args:
        text: YAML.
        where: its file or key, for the message.
        advice: what to do where it cannot be read, for the message.

    Raises:
        InputError: as :func:`plain_yaml`.
    """
    try:
        return plain_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} cannot be read as YAML ({' '.join(str(error).split())}): {advice}") from error


def _size(node: Any, known: dict[int, int]) -> int:
    """Returns the number of values and characters in a node, its aliases written out; each node is visited once."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = LARGEST + 1  # until it is known: an alias inside of itself has no end
    if isinstance(node, yaml.ScalarNode):
        size = 1 + len(node.value)
    elif isinstance(node, yaml.MappingNode):
        size = 1 + sum(_size(key, known) + _size(value, known) for key, value in node.value)
    else:
        size = 1 + sum(_size(part, known) for part in (node.value if node is not None else ()))
    known[id(node)] = min(size, LARGEST + 1)
    return known[id(node)]
