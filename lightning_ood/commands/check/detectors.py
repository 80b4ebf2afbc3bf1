"""What each detector needs and whether the run has it, for all detectors and not only up to the first failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torchmetrics import Metric

from lightning_ood.commands.check.findings import DetectorFacts, Findings
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.module import OODModule
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.sample import state_bytes


def setup_detectors(found: Findings, detectors: Mapping[str, Detector], info: NetworkInfo) -> dict[str, Detector]:
    """Sets up every detector and adds the facts about it; returns the detectors that can run on this network."""
    usable: dict[str, Detector] = {}
    states: dict[int, int] = {}
    info = info.sharing()
    for name, detector in detectors.items():
        with found.catching("detectors", name):
            detector.setup(info)
            usable[name] = detector
            own = {id(metric): state_bytes(metric) for metric in detector.modules() if isinstance(metric, Metric)}
            states |= own  # a statistic that detectors share counts once in the total
            reads = detector.reads
            found.detectors[name] = DetectorFacts(
                fit=detector.requires_fit,
                extra_forwards=dict(detector.extra_forwards),
                taps=sorted(reads.taps),
                gradients=sorted(reads.gradients),
                attention=reads.attention,
                views=sorted(str(view) for view in reads.views),
                linear_head=reads.head,
                state_bytes=sum(own.values()),
            )
    found.estimate["memory"] = {"state_bytes": sum(states.values())}
    return usable


def needs_labels(detector: Detector, features: Features, info: NetworkInfo) -> bool:
    """Checks whether a fit works with labels and fails without; tried on a batch, since no detector declares it.

    Predictions replace missing labels. The detector is left reset and has to be set up again.
    """
    labels = features.prediction if features.labels is None else features.labels
    known = replace(features, labels=labels, index=torch.arange(len(features)))
    return _fits(detector, known, replace(info, labels=labels.cpu())) and not _fits(
        detector, replace(known, labels=None), replace(info, labels=None)
    )


def _fits(detector: Detector, features: Features, info: NetworkInfo) -> bool:
    try:
        detector.setup(info)
        detector.to(features.logits.device)
        detector.update(features)
        detector.compute()
    except InputError:
        return False
    finally:
        detector.reset()
    return True


def leave_out(found: Findings, detectors: Mapping[str, Detector], module: OODModule) -> dict[str, Detector]:
    """Returns the detectors that a fit keeps; with the nearest class mean those that read logits are left out."""
    if module.finetune != "means":
        return dict(detectors)
    for name, detector in detectors.items():
        if detector.needs_logits:
            found.add("ok", "detectors", name, "left out: it reads logits, and no classifier is learned")
    return {name: detector for name, detector in detectors.items() if not detector.needs_logits}
