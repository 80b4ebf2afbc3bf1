"""Checks a run before it starts for everything that would stop it or make its numbers wrong."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

import lightning as L
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.check.cost import estimate
from lightning_ood.commands.check.detectors import serve
from lightning_ood.commands.check.duplicates import check_duplicates
from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.make import make, make_class
from lightning_ood.commands.check.model import check_accuracy, check_preprocessing, published_accuracy
from lightning_ood.commands.check.sets import TEST, TRAIN, check_classes, open_sets, read_sets
from lightning_ood.commands.check.show import show
from lightning_ood.commands.check.trial import Trial
from lightning_ood.data.sets import ImageSet
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.exact import check_exact
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback


def add_arguments(parser: LightningArgumentParser) -> None:
    """Adds what ``check`` alone reads. ``fit`` and ``test`` know it too, so that a config of theirs may hold it."""
    parser.add_argument(
        "--check.samples", type=PositiveInt, default=512, help="ID images of each kind that go through the network"
    )
    parser.add_argument(
        "--check.accuracy",
        type=float | None,
        default=None,
        help="published accuracy of the network on the ID test images, percent, where the package knows none",
    )
    parser.add_argument(
        "--check.limit",
        type=PositiveInt | None,
        default=None,
        help="images of each set that are read to find unreadable ones and duplicates, evenly spread; null: all",
    )
    parser.add_argument("--json", action="store_true", help="`check` prints JSON instead of a list")


def main(config: dict[str, Any], as_json: bool) -> int:
    """Checks a run and prints what was found; nothing is written.

    Args:
        config: of the run, in plain values.
        as_json: prints JSON on stdout instead of a list, and nothing else there.

    Returns:
        1 where something is wrong, else 0.
    """
    found = Findings()
    with redirect_stdout(sys.stderr):
        check(found, config, quiet=as_json or config["trainer"]["enable_progress_bar"] is False)
    if as_json:
        print(json.dumps(found.plain(), indent=2))
    else:
        show(found)
    return 1 if found.count("error") else 0


def check(found: Findings, config: dict[str, Any], quiet: bool = True) -> None:
    """Collects what is good, doubtful and wrong, each check as far as the others' failures let it.

    Args:
        found: takes it in.
        config: of the run, in plain values.
        quiet: shows no progress.
    """
    options, data = config["check"], config["data"]
    sets = open_sets(found, data)
    contents = read_sets(found, sets, data, options["limit"], quiet)
    check_duplicates(found, sets, contents)
    module = _module(found, config)
    check_classes(found, sets, module.backbone.probe.num_classes if module else None)
    detectors = _detectors(found, config["scoring"]["detectors"])
    trainer = _trainer(found, config["trainer"])
    if module is not None:
        with found.catching("model", "model.preprocess"):
            check_preprocessing(found, module, config["model"])
        train = sets.get(TRAIN)
        served = serve(found, detectors, module.backbone.info(train.labels if train is not None else None))
        if trainer is not None:
            trial = Trial(found, trainer, module, options["samples"], data["batch_size"])
            readable = {key: sets[key] for key, entry in contents.items() if entry.digests}
            _try(trial, served, readable, options["accuracy"])
            ready = ", ".join(served) or "none"
            found.add("ok" if served else "error", "detectors", "scoring.detectors", f"ready to run: {ready}")
            estimate(found, trial, sets, data["num_workers"])


def _module(found: Findings, config: dict[str, Any]) -> OODModule | None:
    module: OODModule | None = None
    with found.catching("model", "model"):
        built = make_class(OODModule, {**config["model"], "root": config["data"]["root"]})
        built.backbone.info()  # what cannot be probed is told here
        module = built
    return module


def _detectors(found: Findings, specs: dict[str, Any]) -> dict[str, Detector]:
    detectors: dict[str, Detector] = {}
    for name, spec in specs.items():
        with found.catching("detectors", name):
            detector = make(Detector | None, spec)
            if detector is not None:
                detectors[name] = ScoringCallback({name: detector}).suite.detectors[name]  # it refuses some names
    if not specs:
        found.add("error", "detectors", "scoring.detectors", "name at least one detector")
    return detectors


def _trainer(found: Findings, arguments: dict[str, Any]) -> L.Trainer | None:
    trainer: L.Trainer | None = None
    with found.catching("trainer", "trainer"):
        trainer = make_class(L.Trainer, {**arguments, "logger": False, "enable_progress_bar": False})
        check_exact(trainer)
    return trainer


@torch.inference_mode()
def _try(trial: Trial, detectors: dict[str, Detector], sets: dict[str, ImageSet], accuracy: float | None) -> None:
    """Fits and scores the detectors on samples, and checks the accuracy."""
    suite = None
    with trial.found.catching("detectors", TRAIN):
        if TRAIN in sets and detectors:
            val_ood = [images for key, images in sets.items() if key.startswith("data.val_ood.")]
            suite = trial.fit(detectors, sets[TRAIN], val_ood)
    with trial.found.catching("accuracy", TEST):
        if TEST in sets:
            ready = {name: detector for name, detector in detectors.items() if not detector.requires_fit}
            correct, images = trial.test(suite or trial.suite(ready), sets[TEST])
            _compare(trial, correct, images, accuracy)


def _compare(trial: Trial, correct: int, images: int, named: float | None) -> None:
    module, found = trial.module, trial.found
    if any(finding.topic == "classes" and finding.level == "error" for finding in found.listed):
        return  # the labels mean other classes
    if images == 0:
        found.add("warning", "accuracy", TEST, "the ID test images have no labels: the accuracy is unknown")
    elif module.source.random and module.finetune != "none":
        found.add("ok", "accuracy", TEST, "not measured: `fit` trains the network first")
    else:
        published = published_accuracy(module) if named is None else named
        check_accuracy(found, correct, images, module.backbone.probe.num_classes, published)
