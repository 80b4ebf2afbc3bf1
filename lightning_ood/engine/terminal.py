"""Terminal output of a run: the progress bar, the list of taps, and filters for the libraries' warnings."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from lightning_ood.engine.module import OODModule


class ProgressBar(RichProgressBar):
    """Names each pass for what it does: fitting, validation or scoring."""

    @property
    def validation_description(self) -> str:
        """The name of the validate loop, which fits detectors except while a network is trained."""
        return "Fitting" if self.trainer.state.fn == TrainerFn.VALIDATING else "Validation"

    @property
    def test_description(self) -> str:
        """The name of the test loop."""
        return "Scoring"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Returns Lightning's metrics without the logger's version number."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


def print_taps(module: OODModule) -> None:
    """Prints every tap with the shape of its map and whether it is a block."""
    info = module.backbone.info()
    table = Table("tap", "map of one image", "block", title=f"Taps of {module.source}")
    for name, shape in info.maps.items():
        table.add_row(name, " x ".join(map(str, shape)), "yes" if name in info.blocks else "")
    table.add_row("pooled", str(info.num_features), "", style="dim")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    heads = "none" if info.attention is None else f"{info.attention[0]} heads x {info.attention[1]} tokens"
    console.print(f"{info.num_classes} logits; class-token attention: {heads}")


def quiet() -> None:
    """Filters library warnings that appear on every run and that users cannot act on."""
    for message in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*method of metric .* was called before the ``update``.*",
        ".*Total length of `list` across ranks is zero.*",
        ".*is smaller than the logging interval.*",
        ".*module\\(s\\) in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "wandb"):
        logging.getLogger(name).addFilter(_is_no_tip)  # added once, however often this is called


def _is_no_tip(record: logging.LogRecord) -> bool:
    tips = ("litlogger", "available:", "`weights_only` was not set", "Loading `train_dataloader`", "anonymous setting")
    return not any(tip in record.getMessage() for tip in tips)
