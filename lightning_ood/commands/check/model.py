"""Checks that the network is used as it was trained: preprocessing and accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torchvision
from scipy.stats import binomtest

from lightning_ood.commands.check.findings import Finding, Level
from lightning_ood.engine.module import OODModule
from lightning_ood.networks.attach import WithHead
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.networks.published import timm_accuracy

CONFIDENCE = 0.99  # of the interval about an accuracy on a sample
SLACK = 1.0  # percent: decoders and resizing differ between libraries


def check_preprocessing(module: OODModule, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Compares the preprocessing with the network's own; ``config`` is the config's ``model`` in plain values."""
    own, used = own_preprocessing(module, config["options"] or {}), module.preprocess
    names = [field.name for field in fields(Preprocess)]
    described = ", ".join(f"{name} {getattr(used, name)}" for name in names)
    if module.source.unread:
        trained = module.finetune != "none"
        as_given = module.source.kind == "own" and not trained
        untrained = "taken as they are" if as_given else "nothing trains it; give model.weights"
        message = "`fit` trains it" if trained else untrained
        yield Finding(
            "ok" if trained or as_given else "warning", "model", "model.weights", f"{module.source}: {message}"
        )
        described += " (of such weights nothing else is known)"
    else:
        yield Finding("ok", "model", "model", str(module.source))
        none = own is None or module.source.shipped
        described += " (the model carries none of its own)" if none else ", the model's own"
    known = None if module.source.unread or module.source.shipped else own
    differing = [name for name in names if known is not None and getattr(known, name) != getattr(used, name)]
    for name in differing:
        values = f"{getattr(used, name)} here, the model's own is {getattr(known, name)}"
        advice = "leave it out unless the weights were trained with it"
        yield Finding("warning", "model", f"model.preprocess.{name}", f"{values}: {advice}")
    if not differing:
        yield Finding("ok", "model", "model.preprocess", described)


def own_preprocessing(module: OODModule, options: Mapping[str, Any]) -> Preprocess | None:
    """Returns the preprocessing of the network's library, without the config's overrides; None where it has none."""
    network, source = module.backbone.network, module.source
    network = network.tower if isinstance(network, WithHead) else network
    if source.library == "torchvision":
        entry = _entry(module) or getattr(torchvision.models.get_model_weights(source.name), "DEFAULT", None)
        return Preprocess.from_torchvision(entry) if entry is not None else None
    if source.library == "timm":
        own = Preprocess.from_timm(network)
        return own.override(size=options["img_size"]) if "img_size" in options else own
    config: Any = getattr(network, "default_cfg", None) or getattr(network, "pretrained_cfg", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    return Preprocess.from_config(config) if config else None


def published_accuracy(module: OODModule) -> float | None:
    """Returns the accuracy in percent that torchvision or timm publishes for the weights; None where unknown."""
    if isinstance(module.backbone.network, WithHead):
        return None  # its head is the user's
    if module.source.library == "timm" and module.backbone.probe.num_classes == 1000:
        return timm_accuracy(module.source, module.backbone.network, module.preprocess.size)
    entry = _entry(module) if module.source.library == "torchvision" else None
    if entry is None or len(entry.meta.get("categories", ())) != module.backbone.probe.num_classes:
        return None
    return next((values["acc@1"] for values in entry.meta["_metrics"].values() if "acc@1" in values), None)


def _entry(module: OODModule) -> Any:
    """Returns the weights' entry in torchvision's enum, or None."""
    weights = module.source.weights
    entries = torchvision.models.get_model_weights(module.source.name)
    return next((e for e in entries if weights == e.name or Path(weights).name == Path(e.url).name), None)


def check_accuracy(module: OODModule, correct: int, images: int, published: float | None) -> Iterator[Finding]:
    """Compares the accuracy on a sample of ID test images with the published one, or with chance.

    Args:
        module: the network.
        correct: number of correctly classified images in the sample.
        images: number of images with a label in the sample.
        published: percent; None looks it up.
    """
    level, message = _compare_accuracy(module, correct, images, published)
    yield Finding(level, "accuracy", "data.id.test", message)


def _compare_accuracy(module: OODModule, correct: int, images: int, published: float | None) -> tuple[Level, str]:
    if images == 0:
        return "warning", "the ID test images have no labels: the accuracy is unknown"
    replaced = module.finetune in ("ridge", "means")  # the head, whatever the weights are
    if replaced or (module.source.unread and module.finetune != "none"):
        return "ok", "not measured: `fit` trains the network first"
    published = published_accuracy(module) if published is None else published
    chance = 100 / module.backbone.probe.num_classes
    interval = binomtest(correct, images).proportion_ci(CONFIDENCE, "wilson")
    low, high = 100 * interval.low, 100 * interval.high
    confidence = f"({low:.1f} to {high:.1f} with {CONFIDENCE:.0%} confidence)"
    measured = f"{100 * correct / images:.1f} % on {images} images {confidence}, "
    causes = "look for other preprocessing, another order of the classes, other weights"
    if published is None:
        if low <= chance:
            return "warning", f"{measured}which chance ({chance:.1f} %) would give too: {causes}"
        advice = "none published is known, --check.accuracy names one"
        return "ok", f"{measured}above chance ({chance:.1f} %); {advice}"
    measured += f"published is {published:.1f} %"
    if high + SLACK < published:
        return "error", f"{measured}: {causes}"
    if low - SLACK > published:
        return "warning", f"{measured}: are these images among those that the network was trained on?"
    return "ok", measured
