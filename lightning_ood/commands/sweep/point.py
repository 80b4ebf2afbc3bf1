"""``fit_test``: fits and tests one point of a sweep, as W&B's agents call it."""

from __future__ import annotations

import ast
import itertools
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.lightning_cli import CLI
from lightning_ood.engine.tracking import closing
from lightning_ood.ops.secrets import hidden_arguments


def main(args: list[str]) -> None:
    """``fit_test --config FILE …``: runs fit, then test, with the same arguments.

    A run that an agent of W&B starts gets its own folder, ``runs/<first config>/<run id>``.
    """
    given = [written(arg) for arg in args]
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id and os.environ.get("WANDB_SWEEP_ID") and not any("default_root_dir" in arg for arg in given):
        configs = [after for arg, after in itertools.pairwise(given) if arg in ("-c", "--config")]
        folder = Path("runs") / (Path(configs[0]).stem if configs else "run") / run_id
        given.append(f"--trainer.default_root_dir={folder}")
    with closing(), hidden_arguments(given) as given:
        os.environ.setdefault("WANDB_JOB_TYPE", "fit_test")  # fit and test log to one run of W&B
        CLI(["fit", *given])
        CLI(["test", *given])


def argument(name: str, value: Any) -> str:
    """Returns a parameter as W&B's agents write it on the command line."""
    return f"--{name}={value}"


def written(arg: str) -> str:
    """Rewrites an argument whose value is a Python literal, as W&B's agents write it, for the YAML parser."""
    name, equals, value = arg.partition("=")
    if equals and name.startswith("--") and (value == "None" or value[:1] in ("{", "[")):
        with suppress(ValueError, SyntaxError, TypeError):  # raised where the value is YAML already
            return f"{name}={json.dumps(ast.literal_eval(value))}"
    return arg


class Resolver(CLI):
    """Parses arguments as the command line does, without building or running anything."""

    def __init__(self) -> None:
        super().__init__([])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses nothing: :meth:`resolve` does."""
        self.config = Namespace(subcommand=None)

    def _skip(self) -> None:
        """Does nothing. Paths stay as written, so that a point's hash does not depend on where its data are."""

    _set_seed = before_instantiate_classes = instantiate_classes = _skip

    def resolve(self, args: list[str]) -> dict[str, Any]:
        """Returns every argument of ``fit``, defaults included, as plain values.

        Raises:
            InputError: with the parser's message.
        """
        config = self._parsed(self.parser, ["fit", *map(written, args)])
        return yaml.safe_load(self._parser("fit").dump(config["fit"], skip_none=False, skip_validation=True))
