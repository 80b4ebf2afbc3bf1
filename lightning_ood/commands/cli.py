"""The command line: ``python train.py COMMAND …``. A command's module is imported when the command is called."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from lightning_ood.commands.configs import expand
from lightning_ood.commands.faults import sentence
from lightning_ood.commands.help_text import SLOW, help_of
from lightning_ood.errors import InputError, close_names
from lightning_ood.ops.orphans import stop_with_parent
from lightning_ood.ops.processes import rank

DEBUG = "--debug"


class Command(NamedTuple):
    """A command: where its function is (``module:function``), and one line of help."""

    function: str
    help: str


COMMANDS = {
    "check": Command(
        "lightning_ood.commands.lightning_cli:check",
        "looks for what would stop fit and test or make their numbers wrong; writes nothing",
    ),
    "fit": Command(
        "lightning_ood.commands.lightning_cli:fit",
        "trains the network where the config asks for it, and fits every detector in one pass",
    ),
    "test": Command(
        "lightning_ood.commands.lightning_cli:test",
        "scores every test image once with every detector; writes, prints and logs the table",
    ),
    "fit_test": Command("lightning_ood.commands.sweep.point:main", "runs fit, then test, with the same arguments"),
    "report": Command("lightning_ood.commands.report:main", "rewrites the table and the pictures of a run"),
    "compare": Command(
        "lightning_ood.commands.compare:main",
        "says which run or detector is better on the same images, and by how much",
    ),
    "leaderboard": Command(
        "lightning_ood.commands.leaderboard:main",
        "writes a page that ranks the detectors of runs on the same images, with their provenance",
    ),
    "features": Command(
        "lightning_ood.commands.features:main",
        "writes logits and penultimate features of all images as tables, and a config that runs detectors on them",
    ),
    "export": Command(
        "lightning_ood.commands.export:main",
        "writes a fitted detector to a folder that decides about new images, with a calibrated threshold",
    ),
    "predict": Command("lightning_ood.commands.predict:main", "decides about images with an exported detector"),
    "monitor": Command("lightning_ood.commands.monitor:main", "watches a stream of images with an exported detector"),
    "configs": Command("lightning_ood.commands.configs:main", "lists the configs that come with the package"),
    "sweep": Command("lightning_ood.commands.sweep:main", "runs every point of a W&B sweep file without an account"),
}


def main(args: list[str] | None = None) -> None:
    """Runs a command; an error that the user can correct is printed without a traceback, and the exit code is 2.

    With ``--debug`` anywhere among the arguments the traceback is printed before it.
    """
    given = sys.argv[1:] if args is None else args
    debug, given = DEBUG in given, [each for each in given if each != DEBUG]
    stop_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError):  # a stream that cannot seek
                stream.reconfigure(errors="backslashreplace")  # for names that the terminal has no letters for
    try:
        rank()  # before Lightning reads it
        if given[:1] in (["-h"], ["--help"]):
            print(usage())
        elif given[:1] and given[0] in SLOW and given[1:] in (["-h"], ["--help"]):
            print(help_of(given[0], partial(_find, given)), end="")
        else:
            _find(given)([expand(each) for each in given[1:]])
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        if debug:
            traceback.print_exception(error)
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2) from None


def usage() -> str:
    """The help text: every command with its line."""
    width = max(map(len, COMMANDS))
    program = Path(sys.argv[0]).name
    return "\n".join(
        (
            f"usage: {program} COMMAND …\n\nPost-hoc out-of-distribution detection.\n\ncommands:",
            *(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()),
            f"\nThe arguments of a command: {program} COMMAND --help",
            "A config of the package: pkg:NAME in place of a path, as in fit --config pkg:digits",
            f"Where an error comes from: {DEBUG} prints its traceback",
        )
    )


def _find(args: list[str]) -> Callable[[list[str]], None]:
    """Imports the function of the command that the arguments begin with.

    Raises:
        InputError: if they begin with no command.
    """
    names = ", ".join(COMMANDS)
    if not args or args[0].startswith("-"):
        raise InputError(f"the command comes first, before its options: {names}")
    if args[0] not in COMMANDS:
        close = close_names(args[0], COMMANDS)
        nearest = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise InputError(f"there is no command {args[0]!r}{nearest}; the commands are {names}")
    module, _, function = COMMANDS[args[0]].function.partition(":")
    found: Callable[[list[str]], None] = getattr(import_module(module), function)
    return found
