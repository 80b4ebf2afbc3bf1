"""What the numbers of a run were computed from: weights, image lists, and what fitted the detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.fingerprint import list_hash
from lightning_ood.engine.module import OODModule


def inputs(module: OODModule, data: OODDataModule, fit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the hashes of weights and image lists as plain values, for ``report/fits.json``.

    Args:
        module: the network.
        data: its test sets, after ``setup``.
        fit: environment and images of the fit, result of ``run.load``.
    """
    return {
        "network": str(module.source),
        "weights_sha256": module.weights_hash(),
        "weights_file_sha256": module.source.sha256,
        "sets": {
            key: {"name": entry.name, "images": len(entry.images), "list_sha256": list_hash(entry.images)}
            for key, entry in data.sets.items()
        },
        "fit": dict(fit),
    }
