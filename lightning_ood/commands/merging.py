"""Configs on top of each other: data sets and detectors are merged by name, and null leaves one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from lightning_ood.errors import InputError
from lightning_ood.ops.plain_yaml import plain_yaml

BY_NAME = ("data.ood", "data.val_ood", "data.csid", "scoring.detectors")  # arguments that are merged by name
_WHOLE = ("class_path", "list")  # keys of an entry that is given whole, and takes nothing from an earlier one
ALL = "*"  # with null: all that the configs before have named


class MergedConfig(ActionConfigFile):
    """Reads a config; of an argument that maps names to values it changes the names alone that it holds."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merges the file ``values`` into ``cfg``, in place."""
        kept: dict[str, Any] = {}
        for key, given in _given(values).items():
            if isinstance(earlier := cfg.get(key), dict):
                cfg[key] = kept[key] = {name: spec for name, spec in earlier.items() if not _replaced(name, given)}
        super().__call__(parser, cfg, values, option_string)
        for key in BY_NAME:
            if isinstance(now := cfg.get(key), dict):
                cfg[key] = {name: value for name, value in {**kept.get(key, {}), **now}.items() if name != ALL}


def _given(values: str) -> dict[str, dict[str, Any]]:
    """Returns what a config, a path or YAML itself, gives of each argument that is merged by name."""
    try:
        path = Path(values)
        content = plain_yaml(nested(path.read_text(encoding="utf-8") if path.is_file() else values))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the parser says what is wrong
    found: dict[str, dict[str, Any]] = {}
    for key in BY_NAME:
        group, _, name = key.partition(".")
        inside = content.get(group) if isinstance(content, dict) else None
        given = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(given, dict):
            found[key] = given
    return found


def _replaced(name: str, given: dict[str, Any]) -> bool:
    """Tells whether a config leaves nothing of an earlier entry: it gives all, or this one whole (a file, a class)."""
    now = given.get(name)
    return ALL in given or isinstance(now, str) or (isinstance(now, dict) and not now.keys().isdisjoint(_WHOLE))


def check_names(options: Any) -> None:
    """Raises InputError where an option names all entries, which only a file can do."""
    for key in BY_NAME:
        if isinstance(named := options.get(key), dict) and ALL in named:
            raise InputError(f"--{key}.{ALL}: write these alone as --{key} '{{NAME: …}}', or the key {ALL} in a config")


def nested(text: str) -> str:
    """Rewrites a config in which a key with dots, as of an option, names one set or detector: ``data.ood.near/x:``.

    Raises:
        InputError: if it also gives the whole argument in a form that has no names.
    """
    try:
        content = plain_yaml(text)
    except yaml.YAMLError:
        return text  # the parser says what is wrong
    if not isinstance(content, dict):
        return text
    found = False
    for argument in BY_NAME:
        group, _, name = argument.partition(".")
        inside = content.get(group)
        for holder, prefix in ((content, f"{argument}."), (inside, f"{name}.")):
            if isinstance(holder, dict):
                for key in [key for key in holder if isinstance(key, str) and key.startswith(prefix)]:
                    found = True
                    value = holder.pop(key)
                    _put(content, [group, name, *key.removeprefix(prefix).split(".")], value)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if found else text


def _put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if content.get(key) is None:
            content[key] = {}
        content = content[key]
        if not isinstance(content, dict):
            raise InputError(f"{'.'.join(keys)}: the config gives {key} as {content!r} too; give one of both")
    content[keys[-1]] = value
