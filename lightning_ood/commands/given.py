"""Finds where a command line and its configs give a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_ood.commands.arguments import CONFIG
from lightning_ood.ops.plain_yaml import plain_yaml


def places(key: str, word: str, args: Sequence[str]) -> Iterator[str]:
    """Yields where ``word`` is given below ``key``, as a key or a value: later options and files first."""
    given = [(arg.partition("=")[0], arg.partition("=")[2]) for arg in args if arg.startswith("-") and "=" in arg]
    given += [(arg, value) for arg, value in pairwise(args) if arg.startswith("-") and "=" not in arg]
    for name, value in reversed(given):
        if name.lstrip("-").startswith(key) and (name.endswith(f".{word}") or word in value):
            yield name
    for name, value in reversed(given):
        if name in CONFIG:
            for path, file in _search(Path(value), word):
                if not key or path.startswith(key):
                    yield f"{file}: {path}"


def _search(file: Path, word: str, deep: int = 3) -> Iterator[tuple[str, Path]]:
    """Yields the dotted keys in a YAML file, and in those that it names, at which ``word`` is a key or a value."""
    try:
        content = plain_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for path, value in walk(content):
        if path.rpartition(".")[2] == word or str(value) == word:
            yield path, file
        elif deep and isinstance(value, str) and value.endswith((".yaml", ".yml")):
            yield from ((f"{path}.{inner}", inside) for inner, inside in _search(file.parent / value, word, deep - 1))


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every dotted key of nested mappings and lists with its value."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        below = f"{path}.{key}" if path else str(key)
        yield below, value
        yield from walk(value, below)


def unreadable(args: Sequence[str]) -> Iterator[str]:
    """Yields the first config that is no YAML."""
    for name, value in pairwise(args):
        if name in CONFIG and Path(value).is_file():
            try:
                plain_yaml(Path(value).read_text(encoding="utf-8"))
            except (ValueError, yaml.YAMLError):
                yield f"{value} cannot be read as YAML"
                return
