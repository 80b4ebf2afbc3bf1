"""``check``, ``fit`` and ``test``: one parser, LightningCLI's, for all three."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shlex
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from lightning_ood.commands import check as checking
from lightning_ood.commands.arguments import inline_files, resolve_paths
from lightning_ood.commands.cli import COMMANDS
from lightning_ood.commands.merging import MergedConfig, check_names, nested
from lightning_ood.commands.messages import missing_library, one_line
from lightning_ood.commands.private_jsonargparse import HelpFormatter, bound_yaml, option_names, unknown_class
from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.downloads import build
from lightning_ood.data.root import data_root
from lightning_ood.detectors import list_detectors
from lightning_ood.engine import run
from lightning_ood.engine.launch import making_trainer
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.private_lightning import subcommand_parser
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.engine.terminal import ProgressBar, print_taps, quiet
from lightning_ood.engine.tracking import closing, hyperparameters, make_ready
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_text
from lightning_ood.ops.secrets import blank, fill_in, hidden_arguments, scrub, without_secrets
from lightning_ood.report import warn_on_failure


class Parser(LightningArgumentParser):
    """Lightning's parser with a shorter help, which takes the name of a data set as it is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Keeps jsonargparse from parsing an image list in the working directory as a nested config file."""
        return super().add_class_arguments(
            theclass, *args, **{**kwargs, "sub_configs": kwargs.get("sub_configs") and theclass is not OODDataModule}
        )

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Merges configs by the names of data sets and detectors."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = MergedConfig
        return super().add_argument(*args, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Takes keys with dots for one data set or detector."""
        return super().parse_string(nested(content), *args, **kwargs)


class Trainer(L.Trainer):
    """Adds ``check``, ``export`` and ``features`` to the trainer: LightningCLI makes subcommands of its methods."""

    def check(self) -> None:
        """Is never called: :meth:`CLI.instantiate_classes` checks before a trainer is built."""
        raise NotImplementedError("the command line checks before it builds a trainer")

    def export(self) -> None:
        """Is never called: :meth:`lightning_ood.commands.export.ExportCLI.export` takes its place."""
        raise NotImplementedError("the command line exports by itself")

    def features(self) -> None:
        """Is never called: :meth:`lightning_ood.commands.features.FeaturesCLI.features` takes its place."""
        raise NotImplementedError("the command line records by itself")


class CLI(LightningCLI):
    """Parses the arguments of ``check``, ``fit`` and ``test``, and runs the one that they name.

    A detector, or a part of one, may be given by the name of its class alone: jsonargparse finds it among the classes
    that have been imported, and so every detector is imported here.

    Args:
        args: the subcommand, then its arguments.
    """

    def __init__(self, args: list[str]) -> None:
        quiet()
        bound_yaml()
        list_detectors()
        self._called = shlex.join(["python", "train.py", *args])
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
            parser_kwargs={name: {"description": f"{COMMANDS[name].help}."} for name in self.subcommands()},
            auto_configure_optimizers=False,  # the module has its own
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds a group for the detectors, so that each can be overridden by name, and the package's own options."""
        parser.add_lightning_class_args(ScoringCallback, "scoring")
        parser.add_argument("--print_taps", action="store_true", help="list the network's taps and exit")
        parser.add_argument(
            "--overwrite", action="store_true", help="train and fit again whatever the run's folder holds"
        )
        parser.add_argument(
            "--one_run", action="store_true", help="log the test to the W&B run of the fit, not to one of its own"
        )
        checking.add_arguments(parser)
        parser.link_arguments("data.root", "model.root")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments; of an error it says one line, and the whole with ``--debug``."""
        self.config = self._parsed(parser, args)

    def _parsed(self, parser: LightningArgumentParser, args: list[str]) -> Any:
        printed = io.StringIO()
        try:
            with redirect_stderr(printed):
                config = parser.parse_args(inline_files(args))
        except SystemExit as stop:
            if not stop.code:
                raise
            whole = f"\n{printed.getvalue()}".partition("\nerror: ")[2].rstrip()
            known = subcommand_parser(self, args[0]) if args[:1] and args[0] in self.subcommands() else parser
            message = unknown_class(whole) or one_line(whole, option_names(known), args)
            raise InputError(scrub(message)) from argparse.ArgumentError(None, scrub(whole))
        sys.stderr.write(printed.getvalue())
        check_names(config[config.subcommand])
        return config

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Maps each subcommand to the arguments of the trainer's method that the command line does not set."""
        skip = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "verbose", "weights_only"}
        return {"check": set(), "fit": skip | {"ckpt_path"}, "test": skip}

    @property
    def options(self) -> Any:
        """The parsed arguments of the subcommand, a namespace."""
        return self.config[self.subcommand]

    @property
    def folder(self) -> RunFolder:
        """The run's output directory."""
        return RunFolder(self.options.trainer.default_root_dir)

    def before_instantiate_classes(self) -> None:
        """Sets the default of the run's folder and joins relative paths of data sets to ``data.root``."""
        if self.options.trainer.default_root_dir is None:
            stems = [Path(str(config)).stem for config in self.options.get("config") or []]
            self.options.trainer.default_root_dir = str(Path("runs") / (stems or ["run"])[0])
        fill_in(self.options)
        resolve_paths(self.options.data, data_root(self.options.data.root))
        self.parser.add_instantiator(build, Dataset)

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer; for ``check`` runs the check, which builds one part at a time."""
        if self.subcommand == "check":
            raise SystemExit(checking.main(self.options.as_dict(), self.options.json))
        try:
            super().instantiate_classes()
        except Exception as error:  # jsonargparse raises others from an import that fails
            if not (said := missing_library(error, self.options.as_dict())):
                raise
            raise InputError(scrub(said)) from error

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds the trainer with the default logger (W&B, offline without a key) and the progress bar."""
        if self.options.print_taps:
            print_taps(self.model)
            raise SystemExit(0)
        logger = self.options.trainer.logger
        if logger is None or logger is True:
            kwargs["logger"] = WandbLogger()
        if self.options.trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [ProgressBar()]
        with making_trainer(self.options.trainer.precision):
            trainer = super().instantiate_trainer(**kwargs)
        tags = [self.datamodule.id.name, self.model.source.network]
        make_ready(trainer.loggers, self.folder.path, str(self.subcommand), tags, self.options.one_run)
        return trainer

    def fit(self, model: OODModule, datamodule: OODDataModule, **_: Any) -> None:
        """Runs the ``fit`` command in place of ``trainer.fit``, which cannot make one exact pass over the images."""
        self._save_config("config.yaml")
        config_hash, overwrite = self._training_config_hash(), self.options.overwrite
        run.fit(self.trainer, model, datamodule, self._scoring, self.folder, config_hash, overwrite)

    def test(self, model: OODModule, datamodule: OODDataModule, ckpt_path: str | None = None, **_: Any) -> None:
        """Runs the ``test`` command in place of ``trainer.test``, from ``fit``'s checkpoint unless another is given."""
        if ckpt_path and not Path(ckpt_path).is_file():
            raise InputError(f"--ckpt_path {ckpt_path}: no such file")
        configs = " ".join(f"--config {path}" for path in self.options.get("config") or [])
        parts = (self.trainer, model, datamodule, self._scoring, self.folder, Path(ckpt_path) if ckpt_path else None)
        config = self._save_config("config.test.yaml")
        run.test(*parts, config, command=f"python train.py fit {configs}", called=self._called)

    @property
    def _scoring(self) -> ScoringCallback:
        return self.config_init[self.subcommand]["scoring"]

    def _save_config(self, name: str) -> str:
        text = subcommand_parser(self, str(self.subcommand)).dump(self.options, skip_none=False)
        content = yaml.safe_load(text)
        if blank(content):
            text = yaml.safe_dump(content, sort_keys=False)
        rank_zero_only(write_text)(self.folder.path / name, text)
        for logger in self.trainer.loggers:
            with warn_on_failure(logger):
                logger.log_hyperparams(hyperparameters(self.options.as_dict()))
        return text

    def _training_config_hash(self) -> str:
        """Returns a hash of all arguments that the training of the network depends on."""
        options = self.options.as_dict()
        left_out = {"reading"} if options["model"]["weights_prefix"] else {"reading", "weights_prefix"}
        parts = {
            "model": {key: value for key, value in options["model"].items() if key not in left_out},
            "data": {key: options["data"][key] for key in ("batch_size", "augment", "seed")}
            | {"id": {key: value for key, value in options["data"]["id"].items() if key != "calibration"}},
            "trainer": {key: options["trainer"][key] for key in STEPS},
            "seed": options["seed_everything"],
            **({"exif_orientation": True} if options["data"]["exif_orientation"] else {}),
            **({"limit": options["data"]["limit"]} if options["data"]["limit"] else {}),
        }
        parts = without_secrets(parts)
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


STEPS = (  # arguments of the trainer that change the training
    *("max_epochs", "max_steps", "max_time", "limit_train_batches", "precision", "callbacks", "sync_batchnorm"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
)


def check(args: list[str]) -> None:
    """Looks for what would stop ``fit`` and ``test`` or make their numbers wrong."""
    run_command("check", args)


def fit(args: list[str]) -> None:
    """Trains the network where the config asks for it, and fits every detector in one pass."""
    run_command("fit", args)


def test(args: list[str]) -> None:
    """Scores every test image once with every detector."""
    run_command("test", args)


def run_command(name: str, args: list[str]) -> None:
    """Runs a subcommand, and ends the W&B run that it began."""
    with closing(), hidden_arguments(args) as given:
        CLI([name, *given])
