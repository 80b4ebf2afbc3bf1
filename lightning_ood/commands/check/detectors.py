"""What each detector needs, and whether it is there: of all detectors, not up to the first that lacks something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torchmetrics import Metric

from lightning_ood.commands.check.findings import Findings
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.sample import state_bytes


def serve(found: Findings, detectors: Mapping[str, Detector], info: NetworkInfo) -> dict[str, Detector]:
    """Sets every detector up; says what it reads and holds, or why it cannot run.

    Returns:
        those that can.
    """
    served: dict[str, Detector] = {}
    states: dict[int, int] = {}
    info = info.sharing()
    for name, detector in detectors.items():
        with found.catching("detectors", name):
            detector.setup(info)
            served[name] = detector
            metrics = [metric for metric in detector.modules() if isinstance(metric, Metric)]
            reads, own = detector.reads, {id(metric): state_bytes(metric) for metric in metrics}
            states |= own  # the owner of a shared statistic counts it
            found.detectors[name] = {
                "fit": detector.requires_fit,
                "extra_forwards": detector.extra_forwards,
                "taps": sorted(reads.taps),
                "gradients": sorted(reads.gradients),
                "attention": reads.attention,
                "views": sorted(str(view) for view in reads.views),
                "linear_head": reads.head,
                "state_bytes": sum(own.values()),
            }
    found.estimate["memory"] = {"state_bytes": sum(states.values())}
    return served


def needs_labels(detector: Detector, features: Features, info: NetworkInfo) -> bool:
    """Whether a fit works with labels and not without: tried on a batch, since no detector declares it.

    Args:
        detector: is left reset; the caller sets it up again.
        features: of a batch of training images; where the set has no labels, predictions stand in.
        info: of the network.
    """
    labels = features.prediction if features.labels is None else features.labels
    index = torch.arange(len(features))
    known = replace(features, labels=labels, index=index)
    if not _fits(detector, known, replace(info, labels=labels.cpu())):
        return False
    return not _fits(detector, replace(known, labels=None), replace(info, labels=None))


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
