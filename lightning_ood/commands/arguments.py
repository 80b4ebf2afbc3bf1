"""Two conveniences between the words of the command line and the parser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

PATH_ARGUMENTS = ("root", "path", "file", "folder")  # init_args of a data set that are resolved against data.root


def inline_files(args: list[str]) -> list[str]:
    """Lets ``--scoring.detectors.<name> FILE.yaml`` name a file, as a config can; the parser takes only its content."""
    option = re.compile(r"--scoring\.detectors\.[^.=]+")
    out: list[str] = []
    for arg in args:
        name, _, value = arg.partition("=")
        path = Path(value if option.fullmatch(name) else arg)
        named = bool(option.fullmatch(name) and value) or bool(out and option.fullmatch(out[-1]))
        if named and path.suffix in (".yaml", ".yml") and path.is_file():
            content = json.dumps(yaml.safe_load(path.read_text()))
            arg = f"{name}={content}" if value else content
        out.append(arg)
    return out


def resolve_paths(node: Any, root: Path) -> None:
    """Joins relative paths in the arguments of data sets given by class path to the root, in place."""
    for key, value in list(vars(node).items()) if hasattr(node, "__dict__") else list(node.items()):
        if key == "init_args" and value is not None:
            for name in PATH_ARGUMENTS:
                if isinstance(value.get(name), str) and not Path(value[name]).is_absolute():
                    value[name] = str(root / value[name])
        if hasattr(value, "items"):
            resolve_paths(value, root)
