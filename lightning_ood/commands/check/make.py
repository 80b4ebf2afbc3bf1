"""Builds one part of a config at a time, so that a part that fails does not hide the others."""

from __future__ import annotations

from typing import Any

import lightning as L
from jsonargparse import ArgumentParser
from torch.utils.data import Dataset

from lightning_ood.data.downloads import build
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.launch import making_trainer
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback


def make(kind: Any, value: Any) -> Any:
    """Builds what a plain value of a config stands for under a type hint; class paths become objects."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return _made(parser, value)


def _make_class(kind: type, arguments: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "value", fail_untyped=False)  # as LightningCLI does
    return _made(parser, {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments})


def _made(parser: ArgumentParser, value: Any) -> Any:
    parser.add_instantiator(build, Dataset)
    return parser.instantiate_classes(parser.parse_object({"value": value}))["value"]


def make_module(config: dict[str, Any]) -> OODModule:
    """Builds the network of a config and probes it."""
    module: OODModule = _make_class(OODModule, {**config["model"], "root": config["data"]["root"]})
    module.backbone.info()  # fails here if the network cannot be probed
    return module


def make_detector(name: str, spec: Any) -> Detector | None:
    """Builds a detector under the name that it has in a run; None where the config leaves it out."""
    detector = make(Detector | None, spec)
    return detector and ScoringCallback({name: detector}).suite.detectors[name]  # raises for reserved names


def make_trainer(arguments: dict[str, Any]) -> L.Trainer:
    """Builds the trainer without loggers."""
    with making_trainer(arguments["precision"]):
        trainer: L.Trainer = _make_class(L.Trainer, {**arguments, "logger": False, "enable_progress_bar": False})
    return trainer
