"""Writes a network, its fitted detectors and their calibration to a folder that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import Batch
from lightning_ood.deploy import conformal, folder
from lightning_ood.deploy.calibration import Calibration, calibrate
from lightning_ood.deploy.card import card
from lightning_ood.deploy.graph import FILES, check_graph, write_graph
from lightning_ood.deploy.load import load_detector, versions
from lightning_ood.deploy.spec import describe
from lightning_ood.errors import InputError
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.ops.checksums import weights_hash
from lightning_ood.suite import DetectorSuite

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
CLOSE = 1e-4  # relative difference of scores between the run and the loaded folder


def export(
    output: Path,
    backbone: Backbone,
    network: Mapping[str, Any],
    preprocess: Preprocess,
    suite: DetectorSuite,
    batches: Iterable[Batch],
    *,
    origin: str,
    accept: float = 0.95,
    classes: Sequence[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    exif_orientation: bool = False,
    notes: Mapping[str, Any] | None = None,
    graph: Literal["onnx", "torch"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the folder, then loads it again and compares its scores with those of the run.

    Args:
        output: the folder to write.
        backbone: the network.
        network: how to build it, ``{"name": "timm:resnet18", "options": {…}}`` or ``{"class_path": …, "init_args":
            …}``, with values of :func:`lightning_ood.deploy.spec.describe`.
        preprocess: of images.
        suite: fitted detectors; the first decides by default.
        batches: preprocessed calibration images, on which nothing was fitted.
        origin: where these images are from, for the model card.
        accept: default share of ID images that is accepted.
        classes: names of the classes.
        reading: ``head`` and ``allow_random`` of the backbone.
        exif_orientation: whether images are turned as their EXIF orientation says.
        notes: more facts for the model card: ``table`` (Markdown), ``doubts`` (detector -> sentences), ``source``.
        graph: also writes one graph from image to decision for ONNX Runtime, or for torch.export.
        overwrite: replace an exported folder.

    Raises:
        InputError: if ``output`` cannot be written, a detector has no fit or cannot be described, there are too few
            calibration images, or the loaded folder scores differently.
    """
    for name in suite.detectors:
        if "/" in name:
            raise InputError(f"detector {name!r}: a name with a slash cannot be exported; rename it in the config")
    conformal.check_accept(accept)
    if graph is not None:
        check_graph(suite)
    partial = folder.prepare(output, overwrite)
    device = next(backbone.network.parameters()).device
    backbone.configure(suite.to(device).reads("test"))
    first: list[Tensor] = []
    calibration = calibrate(backbone, suite, _keeping(batches, first), device, origin)
    conformal.rank(len(calibration), accept)
    shared = folder.write_tensors(partial, backbone.network.state_dict(), suite.fitted, calibration)
    header = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "network": dict(network),
        "source": (notes or {}).get("source", ""),
        "reading": {"head": None, "allow_random": False, **(reading or {})},
        "weights_hash": weights_hash(backbone.network),
        "preprocess": asdict(preprocess),
        "exif_orientation": exif_orientation,
        "classes": list(classes) if classes else None,
        "detectors": {name: _entry(name, suite, calibration, accept) for name in suite.detectors},
        "shared": shared,
        "calibration": _stated(calibration, accept),
    }
    text = card(header, calibration, notes or {})
    (partial / folder.CARD).write_text(text, encoding="utf-8")
    folder.write_header(partial, header)
    _compare(partial, first[0], calibration)
    if graph is not None:
        write_graph(load_detector(partial, device="cpu", trust_code=True), partial / FILES[graph], graph)
        folder.write_header(partial, header)  # with the hash of the graph
    return folder.publish(partial, output)


def _keeping(batches: Iterable[Batch], first: list[Tensor]) -> Iterable[Batch]:
    """Passes batches on, and keeps the images of the first that has some."""
    for batch in batches:
        if not first and len(batch.index):
            first.append(batch.image)
        yield batch


def _entry(name: str, suite: DetectorSuite, calibration: Calibration, accept: float) -> dict[str, Any]:
    detector, ordered = suite.detectors[name], calibration.ordered[name]
    quantiles = np.quantile(ordered, QUANTILES)
    return {
        "spec": describe(detector),
        "config": detector.config(),
        "taps": list(detector.reads.taps),
        "threshold": calibration.threshold(name, accept),
        "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _stated(calibration: Calibration, accept: float) -> dict[str, Any]:
    n, (correct, labelled) = len(calibration), calibration.accuracy
    return {
        "images": n,
        "origin": calibration.origin,
        "accept": accept,
        "confidence": conformal.CONFIDENCE,
        "accept_with_confidence": conformal.guaranteed(n, accept),
        "correct": correct,
        "labelled": labelled,
    }


def _compare(path: Path, images: Tensor, calibration: Calibration) -> None:
    """Loads a folder and scores images again that the run has scored.

    Raises:
        InputError: if a score differs.
    """
    loaded = load_detector(path, device="cpu", trust_code=True)
    with torch.inference_mode():
        scores = loaded.score(images)[1].double().numpy()  # [B, detectors]
    loaded.backbone.close()
    for i, name in enumerate(loaded.detectors):
        stored = calibration.scores[name][: len(images)].astype(np.float64)
        spread = float(np.ptp(calibration.scores[name])) or 1.0
        worst = float(np.abs(scores[:, i] - stored).max()) / spread
        if worst > CLOSE:
            raise InputError(
                f"detector {name!r} scores differently after loading ({worst:.1e} of the scores' range): its network "
                "or fit is not described by its config; report this with the config"
            )
