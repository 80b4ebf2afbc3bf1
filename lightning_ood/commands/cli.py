"""The command line: ``python train.py check|fit|test --config FILE``."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from lightning_ood.commands import check as checking
from lightning_ood.commands.arguments import inline_files, resolve_paths
from lightning_ood.data.datamodule import OODDataModule, data_root
from lightning_ood.data.downloads import build
from lightning_ood.engine import run
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.engine.terminal import ProgressBar, print_taps, quiet
from lightning_ood.engine.tracking import closing, hyperparameters, prepare
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_text
from lightning_ood.ops.processes import stop_with_parent
from lightning_ood.report import log_checkpoint, telling


class Parser(LightningArgumentParser):
    """Takes the name of a data set as it is."""

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """An image list that lies where the command is called is no part of the config, to be read in its place."""
        return super().add_class_arguments(
            theclass, *args, **{**kwargs, "sub_configs": kwargs.get("sub_configs") and theclass is not OODDataModule}
        )


class Trainer(L.Trainer):
    """Where LightningCLI finds its subcommands."""

    def check(self) -> None:
        """Looks for what would stop fit and test or make their numbers wrong; writes nothing."""
        raise NotImplementedError("the command line checks before it builds a trainer")


class CLI(LightningCLI):
    """``fit`` trains (where there is something to train), fits and saves; ``test`` scores and reports.

    ``check`` looks first whether both can.
    """

    def __init__(self, args: list[str]) -> None:
        defaults = {
            "logger": None,
            "use_distributed_sampler": False,  # the data module's samplers repeat no image
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        super().__init__(
            OODModule,
            OODDataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            parser_class=Parser,
            seed_everything_default=0,
            trainer_defaults=defaults,
            parser_kwargs={
                "description": "Out-of-distribution detection. Besides check, fit and test, which the configs are for: "
                "`report RUN` draws table and pictures of a run anew from its scores, `compare RUN …` says which is "
                "better on the same images, `sweep FILE` runs a sweep, `fit_test` fits and tests. Each has a --help."
            },
            auto_configure_optimizers=False,  # the module has its own
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Gives the detectors an argument group of their own, so that each can be overridden by name."""
        parser.add_lightning_class_args(ScoringCallback, "scoring")
        parser.add_argument("--print_taps", action="store_true", help="list the network's taps and exit")
        parser.add_argument(
            "--overwrite", action="store_true", help="train and fit again whatever the run's folder holds"
        )
        checking.add_arguments(parser)
        parser.link_arguments("data.root", "model.root")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Shows what is wrong with the arguments without the pages of usage that go before it."""
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                self.config = parser.parse_args(inline_files(args))
        except SystemExit as stop:
            if stop.code:
                print("error:", said.getvalue().rpartition("error: ")[2].rstrip(), file=sys.stderr)
            raise
        sys.stderr.write(said.getvalue())

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Check, fit and test; each with the arguments that the command line does not set."""
        skip = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "verbose", "weights_only"}
        return {"check": set(), "fit": skip | {"ckpt_path"}, "test": skip}

    @property
    def options(self) -> Any:
        """The parsed arguments of the subcommand."""
        return self.config[self.subcommand]

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return RunFolder(self.options.trainer.default_root_dir)

    def before_instantiate_classes(self) -> None:
        """Names the run's folder and resolves paths of data sets against the data's root."""
        if self.options.trainer.default_root_dir is None:
            stems = [Path(str(config)).stem for config in self.options.get("config") or []]
            self.options.trainer.default_root_dir = str(Path("runs") / (stems or ["run"])[0])
        resolve_paths(self.options.data, data_root(self.options.data.root))
        self.parser.add_instantiator(build, Dataset)

    def instantiate_classes(self) -> None:
        """``check`` makes each part by itself, so that one that fails does not hide the others."""
        if self.subcommand == "check":
            raise SystemExit(checking.main(self.options.as_dict(), self.options.json))
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Adds the default logger (W&B, offline without a key) and the progress bar."""
        if self.options.print_taps:
            print_taps(self.model)
            raise SystemExit(0)
        logger = self.options.trainer.logger
        if logger is None or logger is True:
            kwargs["logger"] = WandbLogger()
        if self.options.trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [ProgressBar()]
        trainer = super().instantiate_trainer(**kwargs)
        tags = [self.datamodule.id.name, self.model.source.network]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                prepare(logger, self.folder.path, str(self.subcommand), tags)
        return trainer

    def fit(self, model: OODModule, datamodule: OODDataModule, **_: Any) -> None:
        """Replaces ``trainer.fit``, which cannot make one exact pass over frozen features."""
        self._save_config("config.yaml")
        config_hash, overwrite = self._training_config_hash(), self.options.overwrite
        last = run.fit(self.trainer, model, datamodule, self._scoring, self.folder, config_hash, overwrite)
        if self.trainer.is_global_zero:
            log_checkpoint(self.trainer.loggers, last)

    def test(self, model: OODModule, datamodule: OODDataModule, ckpt_path: str | None = None, **_: Any) -> None:
        """Replaces ``trainer.test``: the checkpoint is ``fit``'s unless another is given."""
        if ckpt_path and not Path(ckpt_path).is_file():
            raise InputError(f"--ckpt_path {ckpt_path}: no such file")
        configs = " ".join(f"--config {path}" for path in self.options.get("config") or [])
        run.test(
            self.trainer,
            model,
            datamodule,
            self._scoring,
            self.folder,
            Path(ckpt_path) if ckpt_path else None,
            config=self._save_config("config.test.yaml"),
            command=f"python train.py fit {configs}",
        )

    @property
    def _scoring(self) -> ScoringCallback:
        return self.config_init[self.subcommand]["scoring"]

    def _save_config(self, name: str) -> str:
        text = self._parser(self.subcommand).dump(self.options, skip_none=False)
        rank_zero_only(write_text)(self.folder.path / name, text)
        for logger in self.trainer.loggers:
            with telling(logger):
                logger.log_hyperparams(hyperparameters(self.options.as_dict()))
        return text

    def _training_config_hash(self) -> str:
        """A hash of all that the training of the network depends on."""
        options = self.options.as_dict()
        parts = {
            "model": {key: value for key, value in options["model"].items() if key not in READING},
            "data": {key: options["data"][key] for key in ("id", "batch_size", "augment", "seed")},
            "trainer": {key: options["trainer"][key] for key in STEPS},
            "seed": options["seed_everything"],
        }
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


READING = ("cache", "cache_gb", "channels_last", "compile")  # of the model: how it is read, not what it is
STEPS = (  # of the trainer: what changes the steps of a training
    *("max_epochs", "max_steps", "max_time", "limit_train_batches", "precision", "callbacks", "sync_batchnorm"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
)

COMMANDS = {  # those that LightningCLI does not parse: name -> "module:function", imported when it is called
    "report": "lightning_ood.report.results:main",
    "sweep": "lightning_ood.commands.sweep:main",
    "fit_test": "lightning_ood.commands.sweep.point:main",
    "compare": "lightning_ood.commands.compare:main",
}


def main(args: list[str] | None = None) -> None:
    """Runs the command line; an error that the user can mend is printed without a traceback."""
    quiet()
    given = sys.argv[1:] if args is None else args
    if os.environ.get("LOCAL_RANK", "0") != "0":
        stop_with_parent()
    try:
        with closing():
            if given and given[0] in COMMANDS:
                module, _, function = COMMANDS[given[0]].partition(":")
                getattr(import_module(module), function)(given[1:])
            else:
                CLI(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
