"""The undocumented names of other libraries that the package uses; an upgrade that drops one fails here by version."""

from __future__ import annotations

import inspect
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from lightning_ood.commands.private_jsonargparse import HelpFormatter, bound_yaml, unknown_class
from lightning_ood.deploy.private_imports import PLOT
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.engine import private_lightning
from lightning_ood.report import private_wandb
from tests.helpers.tiny import NanScore


def broken(library: str, what: str) -> str:
    return f"{library} {version(library)}: {what}"


def trainer(devices: int, strategy: str) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_progress_bar=False, barebones=False
    )


@pytest.fixture
def logger(tmp_path: Path) -> WandbLogger:
    return WandbLogger(save_dir=tmp_path / "before", project="p", name="n")


def test_launchers() -> None:
    assert private_lightning.forks(trainer(2, "ddp_spawn")), broken("lightning", "another launcher for ddp_spawn")
    alone, several = trainer(1, "auto"), trainer(2, "ddp")
    several.strategy._configure_launcher()  # type: ignore[attr-defined]
    assert not private_lightning.forks(alone) and not private_lightning.forks(several)
    assert list(private_lightning.ChildProcesses(alone)) == []
    launcher: Any = several.strategy.launcher
    assert hasattr(launcher, "procs"), broken("lightning", f"{type(launcher).__name__} has no `procs`")
    children = private_lightning.ChildProcesses(several)
    launcher.procs = [1, 2]  # a new list, as it makes when it starts them
    assert list(children) == [1, 2] and len(children) == 2


def test_yaml_loader_of_jsonargparse() -> None:
    from jsonargparse import _loaders_dumpers

    bound_yaml()
    with pytest.raises(yaml.YAMLError, match="its aliases"):
        _loaders_dumpers.basic_json_or_yaml_load("a: &a [*a]")


def test_subcommand_parser() -> None:
    assert hasattr(LightningCLI, "_parser"), broken("lightning", "LightningCLI has no `_parser`")

    class Cli:
        def _parser(self, subcommand: str) -> str:
            return f"of {subcommand}"

    assert private_lightning.subcommand_parser(Cli(), "fit") == "of fit"


def test_the_attributes_of_the_logger_exist(logger: WandbLogger) -> None:
    for name in ("_wandb_init", "_save_dir", "_project", "_name", "_log_model", "_experiment", "_offline"):
        assert hasattr(logger, name), broken("lightning", f"WandbLogger has no `{name}`")


def test_arguments_of_wandb_init(logger: WandbLogger, tmp_path: Path) -> None:
    arguments = private_wandb.init_arguments(logger)
    expected = {"project", "name", "dir", "anonymous"}
    assert expected <= set(arguments), broken("lightning", f"WandbLogger gives wandb.init {sorted(arguments)}")
    private_wandb.set_folder(logger, tmp_path / "after")
    assert logger.save_dir == arguments["dir"] == str(tmp_path / "after"), broken("lightning", "another save_dir")
    arguments["project"], arguments["name"] = "other", "mine"
    private_wandb.sync_names(logger)
    assert logger.name == "other", broken("lightning", "WandbLogger.name is not its project")


def test_the_run_of_the_logger(logger: WandbLogger) -> None:
    first, second = object(), object()
    assert not private_wandb.has_run(logger)
    private_wandb.adopt_run(logger, None)
    assert not private_wandb.has_run(logger)
    private_wandb.adopt_run(logger, first)
    assert private_wandb.has_run(logger)
    assert logger.experiment is first, broken("lightning", "WandbLogger.experiment does not return `_experiment`")
    private_wandb.adopt_run(logger, second)
    assert logger.experiment is first, "its own run stays"


def test_offline_and_uploads(logger: WandbLogger) -> None:
    private_wandb.init_arguments(logger)["mode"] = "online"
    assert not private_wandb.is_offline(logger) and not private_wandb.uploads_models(logger)
    private_wandb.go_offline(logger)
    private_wandb.upload_models(logger)
    assert private_wandb.is_offline(logger) and private_wandb.uploads_models(logger)
    assert private_wandb.init_arguments(logger)["mode"] == "offline"


def help_text(**kwargs: Any) -> str:
    parser = jsonargparse.ArgumentParser(**kwargs)
    parser.add_argument("--network", type=nn.Module)
    parser.add_argument("--scoring.detectors", type=dict[str, Detector])
    return " ".join(parser.format_help().split())


def test_help_leaves_long_lists_of_classes_out() -> None:
    assert "known subclasses: torch.nn.Module," in help_text(), broken("jsonargparse", "another list of subclasses")
    assert issubclass(NanScore, Detector), "a class of the user's, which the list would show"
    ours = help_text(formatter_class=HelpFormatter)
    assert "KNN" in ours, broken("jsonargparse", "`_get_help_string` is not called")
    assert "known subclasses" not in ours and "torch.nn.Linear" not in ours


@pytest.mark.parametrize("value", ["MPS", {"class_path": "MPS"}])
def test_the_message_about_a_class_that_does_not_exist(value: object) -> None:
    list_detectors()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--scoring.detectors", type=dict[str, Detector | None])
    with pytest.raises(jsonargparse.ArgumentError) as error:
        parser.parse_object({"scoring": {"detectors": {"m": value}}})
    message = unknown_class(str(error.value)) or ""
    changed = broken("jsonargparse", f"another message about an unknown class: {error.value}")
    assert message.startswith("scoring.detectors: there is no class MPS; write MSP"), changed
    parser.add_argument("--model.network", type=nn.Module)
    with pytest.raises(jsonargparse.ArgumentError) as error:
        parser.parse_object({"model": {"network": {"class_path": f"{__name__}.help_text"}}})
    message = unknown_class(str(error.value)) or ""
    assert "help_text is neither a class of torch.nn.Module nor a function that is known to return one" in message
    assert unknown_class("Parser key \"model.width\": Expected a <class 'int'>") is None


def test_the_parts_of_torchmetrics_that_are_imported_alone_exist() -> None:
    import torchmetrics.metric
    import torchmetrics.utilities.plot as plot

    assert plot.__name__ == PLOT and Path(torchmetrics.__file__).parent / "utilities" / "plot.py" == Path(plot.__file__)
    for module, names in (
        (torchmetrics, ("_logger",)),
        (torchmetrics.metric, ("Metric",)),
        (plot, ("_AX_TYPE", "_PLOT_OUT_TYPE", "plot_single_or_multi_val")),
    ):
        for name in names:
            assert hasattr(module, name), broken("torchmetrics", f"{module.__name__} has no {name}")


def test_an_artifact_becomes_an_input_offline() -> None:
    from wandb.sdk.wandb_run import Run

    arguments = inspect.signature(Run._log_artifact).parameters
    expected = {"is_user_created", "use_after_commit"}
    assert expected <= set(arguments), broken("wandb", f"Run._log_artifact takes {sorted(arguments)}")


def test_a_run_of_wandb_begins_without_the_launcher_unless_inputs_are_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.wandb_run import Run

    assert hasattr(Run, "_detect_and_apply_job_inputs"), broken("wandb", "Run has no `_detect_and_apply_job_inputs`")
    applied: list[str] = []
    monkeypatch.setattr(Run, "_detect_and_apply_job_inputs", applied.append)
    monkeypatch.delitem(sys.modules, "wandb.sdk.launch.inputs.internal", raising=False)
    for _ in range(2):
        private_wandb.skip_launcher()
        Run._detect_and_apply_job_inputs("early")
    monkeypatch.setitem(sys.modules, "wandb.sdk.launch.inputs.internal", None)
    Run._detect_and_apply_job_inputs("staged")
    assert applied == ["staged"]
