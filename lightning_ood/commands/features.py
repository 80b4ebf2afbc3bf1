"""``python train.py features``: writes the features of all images of a run as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.lightning_cli import CLI
from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.recording import Form, record


class FeaturesCLI(CLI):
    """Parses the arguments of ``features``: those of ``test``, and where to write what."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the one subcommand; the trainer's method takes no arguments."""
        return {"features": set()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the command's own options."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str, required=True, help="the folder to write")
        parser.add_argument(
            "--format", type=Form, default="safetensors", help=f"of the tables: {', '.join(get_args(Form))}"
        )

    def before_instantiate_classes(self) -> None:
        """Leaves out the logger: there is nothing to log."""
        super().before_instantiate_classes()
        self.options.trainer.logger = False

    def features(self, model: OODModule, datamodule: OODDataModule, **_: Any) -> None:
        """Sends every image through the network once and writes the tables."""
        self.trainer.callbacks.remove(self._scoring)  # type: ignore[attr-defined]  # no detector reads this pass
        last, output = self.folder.last, Path(self.options.output)
        record(self.trainer, model, datamodule, last, output, self.options.format)


def main(args: list[str]) -> None:
    """Writes logits and penultimate features of all images, and a config that runs detectors on them."""
    FeaturesCLI(["features", *args])
