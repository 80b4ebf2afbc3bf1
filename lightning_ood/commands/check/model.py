"""Checks that the network is used as it was trained: preprocessing and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torchvision
from scipy.stats import binomtest

from lightning_ood.commands.check.findings import Findings
from lightning_ood.engine.module import OODModule
from lightning_ood.networks.preprocess import Preprocess

CONFIDENCE = 0.99  # of the interval about an accuracy on a sample
SLACK = 1.0  # percent: decoders and resizing differ between libraries


def check_preprocessing(found: Findings, module: OODModule, config: Mapping[str, Any]) -> None:
    """Compares what images go through with what the network was trained on.

    Args:
        found: takes in what was found.
        module: the network.
        config: the config's ``model``, in plain values.
    """
    own, used = own_preprocessing(module, config["options"] or {}), module.preprocess
    if module.source.random:
        trained = "`fit` trains it" if module.finetune != "none" else "nothing trains it; give model.weights"
        level = "ok" if module.finetune != "none" else "warning"
        found.add(level, "model", "model.weights", f"{module.source}: {trained}")  # type: ignore[arg-type]
    else:
        found.add("ok", "model", "model", str(module.source))
    if own is None or module.source.random:
        why = "of random weights nothing else is known" if module.source.random else "the model carries none of its own"
        found.add("ok", "model", "model.preprocess", f"{_say(used)} ({why})")
        return
    differs = [field.name for field in fields(Preprocess) if getattr(own, field.name) != getattr(used, field.name)]
    for name in differs:
        here, there = getattr(used, name), getattr(own, name)
        found.add(
            "warning",
            "model",
            f"model.preprocess.{name}",
            f"{here} here, the model's own is {there}: leave it out unless the weights were trained with it",
        )
    if not differs:
        found.add("ok", "model", "model.preprocess", f"{_say(used)}, the model's own")


def own_preprocessing(module: OODModule, options: Mapping[str, Any]) -> Preprocess | None:
    """What the network's library says of it, without the config's overrides; None where nothing says."""
    network, library = module.backbone.network, module.source.library
    if library == "torchvision":
        entry = _entry(module) or _default(module)
        return Preprocess.from_torchvision(entry) if entry is not None else None
    if library == "timm":
        own = Preprocess.from_timm(network)
        return own.override(size=options["img_size"]) if "img_size" in options else own
    config: Any = getattr(network, "default_cfg", None) or getattr(network, "pretrained_cfg", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    return Preprocess.from_config(config) if config else None


def published_accuracy(module: OODModule) -> float | None:
    """Percent, as torchvision publishes it for these weights; None where the packages know none."""
    entry = _entry(module) if module.source.library == "torchvision" else None
    if entry is None or len(entry.meta.get("categories", ())) != module.backbone.probe.num_classes:
        return None
    return next((values["acc@1"] for values in entry.meta["_metrics"].values() if "acc@1" in values), None)


def check_accuracy(found: Findings, correct: int, images: int, classes: int, published: float | None) -> None:
    """Compares the accuracy on a sample of ID test images with the published one, or with chance.

    Args:
        found: takes in what was found.
        correct: number of correctly classified images in the sample.
        images: number of images in the sample.
        classes: number of classes, K.
        published: percent, or None where it is not known.
    """
    accuracy, chance = 100 * correct / images, 100 / classes
    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, "wilson")
    low, high = 100 * interval.low, 100 * interval.high
    measured = f"{accuracy:.1f} % on {images} images ({low:.1f} to {high:.1f} with {CONFIDENCE:.0%} confidence)"
    causes = "look for other preprocessing, another order of the classes, other weights"

    def say(level: Any, message: str) -> None:
        found.add(level, "accuracy", "data.id.test", f"{measured}, {message}")

    if published is None:
        if low <= chance:
            say("warning", f"which chance ({chance:.1f} %) would give too: {causes}")
        else:
            say("ok", f"above chance ({chance:.1f} %); none published is known, --check.accuracy names one")
    elif high + SLACK < published:
        say("error", f"published is {published:.1f} %: {causes}")
    elif low - SLACK > published:
        say("warning", f"published is {published:.1f} %: are these images among those that the network was trained on?")
    else:
        say("ok", f"published is {published:.1f} %")


def _entry(module: OODModule) -> Any:
    """Returns the weights' entry in torchvision's enum, or None."""
    source = module.source
    entries = torchvision.models.get_model_weights(source.name)
    return next((e for e in entries if source.weights == e.name or Path(source.weights).name == Path(e.url).name), None)


def _default(module: OODModule) -> Any:
    return getattr(torchvision.models.get_model_weights(module.source.name), "DEFAULT", None)


def _say(preprocess: Preprocess) -> str:
    return ", ".join(f"{field.name} {getattr(preprocess, field.name)}" for field in fields(Preprocess))
