"""The help of commands whose parser needs Lightning: built once, then read from a file of the user's cache."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning_ood.ops.files import write_text

SLOW = ("check", "fit", "test", "fit_test", "features", "export")
_LIBRARIES = ("lightning", "jsonargparse", "torch", "torchmetrics", "docstring-parser")
_ENVIRONMENT = ("JSONARGPARSE_", "PL_", "LIGHTNING_OOD_")


def help_of(command: str, find: Callable[[], Callable[[list[str]], None]]) -> str:
    """Returns the help of a command: the text of an earlier call if package, libraries and terminal are the same.

    Args:
        command: one of ``SLOW``.
        find: imports the command's function, which prints its help and exits.
    """
    key = _key(command)
    with suppress(OSError, RuntimeError, UnicodeError):
        found, _, text = _file(command).read_text(encoding="utf-8").partition("\n")
        if found == key:
            return text
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        find()(["--help"])
    with suppress(OSError, RuntimeError):  # a home that cannot be written: the next call builds the help again
        write_text(_file(command), f"{key}\n{printed.getvalue()}")
    return printed.getvalue()


def _file(command: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lightning_ood" / "help" / f"{command}.txt"


def _key(command: str) -> str:
    """Returns a hash of what the text depends on: code of the package, versions, width of the terminal, environment."""
    package = Path(__file__).parents[1]
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(package.rglob("*.py"))]
    versions = [_version(name) for name in _LIBRARIES]
    set_here = sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
    width = shutil.get_terminal_size().columns
    parts = (command, Path(sys.argv[0]).name, sys.version, width, versions, set_here, files)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
