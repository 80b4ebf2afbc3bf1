"""``fit_test``: a point of a sweep in one command, as W&B's agents call it."""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.arguments import inline_files
from lightning_ood.commands.lightning_cli import CLI
from lightning_ood.engine.tracking import closing
from lightning_ood.errors import InputError


def main(args: list[str]) -> None:
    """``fit_test --config FILE …``: fit, then test, with the same arguments.

    Called by an agent of W&B the run has a folder of its own, below the one that it had otherwise.
    """
    given = [written(arg) for arg in args]
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id and os.environ.get("WANDB_SWEEP_ID") and not any("default_root_dir" in arg for arg in given):
        named = [after for arg, after in itertools.pairwise(given) if arg in ("-c", "--config")]
        folder = Path("runs") / (Path(named[0]).stem if named else "run") / run_id
        given.append(f"--trainer.default_root_dir={folder}")
    with closing():
        os.environ.setdefault("WANDB_JOB_TYPE", "fit_test")  # one run of W&B for both
        CLI(["fit", *given])
        CLI(["test", *given])


def argument(name: str, value: Any) -> str:
    """How an agent of W&B writes a parameter of a point."""
    return f"--{name}={value}"


def written(arg: str) -> str:
    """An argument whose value is written as in Python, as W&B's agents do, as the parser reads it."""
    name, equals, value = arg.partition("=")
    if not (equals and name.startswith("--")):
        return arg
    if value == "None":
        return f"{name}=null"
    if value[:1] in ("{", "["):
        try:
            return f"{name}={json.dumps(ast.literal_eval(value))}"
        except (ValueError, SyntaxError, TypeError):
            return arg  # it is YAML
    return arg


class Resolver(CLI):
    """The parser of the command line; it builds nothing and runs nothing."""

    def __init__(self) -> None:
        super().__init__([])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """None yet."""
        self.config = Namespace(subcommand=None)

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        """Paths stay as they are written: what a point is does not depend on where its data lie."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def resolve(self, args: list[str]) -> dict[str, Any]:
        """Every argument of ``fit``, defaults included, in plain values.

        Raises:
            InputError: with what the parser says.
        """
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                config = self.parser.parse_args(inline_files(["fit", *map(written, args)]))
        except SystemExit:
            raise InputError(said.getvalue().rpartition("error: ")[2].strip()) from None
        return yaml.safe_load(self._parser("fit").dump(config["fit"], skip_none=False, skip_validation=True))
