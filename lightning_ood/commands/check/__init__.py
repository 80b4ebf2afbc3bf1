"""Checks a run before it starts for everything that would stop it or make its numbers wrong."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from lightning_ood.commands.check.cost import estimate
from lightning_ood.commands.check.detectors import leave_out, setup_detectors
from lightning_ood.commands.check.dry_run import DryRun
from lightning_ood.commands.check.duplicates import check_duplicates
from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.make import make_detector, make_module, make_trainer
from lightning_ood.commands.check.model import check_accuracy, check_preprocessing
from lightning_ood.commands.check.sets import TEST, TRAIN, check_classes, open_sets, read_sets
from lightning_ood.commands.check.show import show
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.exact import check_exact
from lightning_ood.suite import DetectorSuite


def add_arguments(parser: LightningArgumentParser) -> None:
    """Adds what ``check`` alone reads. ``fit`` and ``test`` accept it too, so that a config of theirs may hold it."""
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
    """Checks a run, prints the findings as a list or as JSON, and returns the exit code: 1 if there is an error."""
    found = Findings()
    with redirect_stdout(sys.stderr):
        check(found, config, quiet=as_json or config["trainer"]["enable_progress_bar"] is False)
    if as_json:
        print(json.dumps(found.plain(), indent=2))
    else:
        show(found)
    return 1 if found.count("error") else 0


def check(found: Findings, config: dict[str, Any], quiet: bool = True) -> None:
    """Runs every check that the failures of the others allow; ``config`` is the run's, in plain values."""
    options, data = config["check"], config["data"]
    sets = open_sets(found, data)
    contents = read_sets(found, sets, data, options["limit"], quiet)
    found.collect("duplicates", "data", check_duplicates(sets, contents))
    module = found.attempt("model", "model", make_module, config)
    check_classes(found, sets, module.backbone.probe.num_classes if module is not None else None)
    detectors = _make_detectors(found, config["scoring"]["detectors"])
    trainer = found.attempt("trainer", "trainer", make_trainer, config["trainer"])
    if trainer is not None:
        found.attempt("trainer", "trainer", check_exact, trainer)
    if module is None:
        return
    found.collect("model", "model.preprocess", check_preprocessing(module, config["model"]))
    detectors = leave_out(found, detectors, module)
    info = module.backbone.info(sets[TRAIN].labels if TRAIN in sets else None)
    if not module.backbone.from_images:
        suite = DetectorSuite(detectors)
        for name, reason in suite.leave_out_unusable(info, images=False).items():
            found.add("warning", "detectors", name, f"left out, since features are stored and not images: {reason}")
        detectors = suite.detectors
    detectors = setup_detectors(found, detectors, info)
    if trainer is None:
        return
    dry_run = DryRun(found, trainer, module, options["samples"], data["batch_size"])
    measured = dry_run.run(detectors, {key: sets[key] for key, read in contents.items() if read.digests})
    if measured is not None and not found.errors("classes"):  # else the labels mean other classes
        found.collect("accuracy", TEST, check_accuracy(module, *measured, options["accuracy"]))
    ready = ", ".join(name for name in detectors if name not in found.errors("detectors"))
    found.add("ok" if ready else "error", "detectors", "scoring.detectors", f"ready to run: {ready or 'none'}")
    estimate(found, dry_run, sets, data["num_workers"])


def _make_detectors(found: Findings, specs: dict[str, Any]) -> dict[str, Detector]:
    if not specs:
        found.add("error", "detectors", "scoring.detectors", "name at least one detector")
    made = {name: found.attempt("detectors", name, make_detector, name, spec) for name, spec in specs.items()}
    return {name: detector for name, detector in made.items() if detector is not None}
