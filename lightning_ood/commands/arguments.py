"""Preprocessing of command-line arguments before they are parsed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lightning_ood.ops.files import read_text
from lightning_ood.ops.plain_yaml import read_yaml

CONFIG = ("-c", "--config")
PATH_ARGUMENTS = ("root", "path", "file", "folder")  # init_args of a data set that may be relative to data.root


def inline_files(args: list[str]) -> list[str]:
    """Replaces the FILE of ``--scoring.detectors.<name> FILE.yaml`` by its content, as JSON.

    A config may name such a file; on the command line jsonargparse takes only the content.

    Raises:
        InputError: if such a file, or a config, is no text in UTF-8, or such a file is no YAML.
    """
    option = re.compile(r"--scoring\.detectors\.[^.=]+")
    out: list[str] = []
    for arg in args:
        name, _, value = arg.partition("=")
        path = Path(value if option.fullmatch(name) or name in CONFIG else arg)
        if ((name in CONFIG and value) or (out and out[-1] in CONFIG)) and path.is_file():
            read_text(path)
        named = bool(option.fullmatch(name) and value) or bool(out and option.fullmatch(out[-1]))
        if named and path.suffix in (".yaml", ".yml") and path.is_file():
            content = json.dumps(read_yaml(read_text(path), path))
            arg = f"{name}={content}" if value else content
        out.append(arg)
    return out


def resolve_paths(node: Any, root: Path) -> None:
    """Joins relative paths among the arguments of data sets given by class path to ``root``, in place."""
    for key, value in list(vars(node).items()) if hasattr(node, "__dict__") else list(node.items()):
        if key == "init_args" and value is not None:
            for name in PATH_ARGUMENTS:
                if isinstance(value.get(name), str) and not Path(value[name]).is_absolute():
                    value[name] = str(root / value[name])
        if hasattr(value, "items"):
            resolve_paths(value, root)
