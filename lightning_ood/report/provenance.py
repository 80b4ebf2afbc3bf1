"""Where the numbers of a run come from: its image lists, network, command, revision. One small file per run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.errors import InputError
from lightning_ood.networks.source import Source
from lightning_ood.ops.files import read_json, write_text
from lightning_ood.report.environment import environment
from lightning_ood.report.table import accuracy

FILE = "provenance.json"
_SAMPLED = 64  # images in memory whose pixels are hashed, since they have no path


Pixels = Callable[[str, int], bytes]  # name of a set, index of an image in it -> bytes


def image_lists(scores: pd.DataFrame, pixels: Pixels | None = None) -> list[dict[str, Any]]:
    """Describes the scored images of each test set: ``dataset``, ``role``, ``group``, ``images`` (count), ``sha256``.

    The hash covers paths below the folder that they share, and labels of ID images, in any order: the same list has the
    same hash on any machine. Images without a path are hashed by position, and 64 of them by their pixels.

    Args:
        scores: table of scores.
        pixels: reads an image that has no path; without it such images are hashed by position alone.
    """
    found = []
    for (role, dataset), rows in scores.groupby(["role", "dataset"], sort=False):
        labels = rows["label"] if role != "ood" else [pd.NA] * len(rows)
        names = [str(i) for i in rows["index"]] if rows["path"].isna().any() else _below(list(rows["path"]))
        lines = sorted(f"{name}\t{'' if pd.isna(y) else y}" for name, y in zip(names, labels, strict=True))
        sha = hashlib.sha256("\n".join(lines).encode())
        if rows["path"].isna().any() and pixels is not None:
            for index in sorted(rows["index"])[:: -(-len(rows) // _SAMPLED)]:
                sha.update(pixels(str(dataset), int(index)))
        group = str(rows["group"].iloc[0])
        entry = {"dataset": str(dataset), "role": str(role), "group": group, "images": len(rows)}
        found.append({**entry, "sha256": sha.hexdigest()})
    return found


def _below(paths: list[str]) -> list[str]:
    """Cuts off the folder that all paths share, which differs between machines."""
    paths = [path.replace("\\", "/") for path in paths]
    shared = os.path.commonpath([path.rpartition("/")[0] for path in paths]) if len(paths) > 1 else ""
    return [path[len(shared) :].lstrip("/") for path in paths]


def network_facts(source: Source, weights_hash: str) -> dict[str, Any]:
    """Describes a network for :func:`write_provenance`: its name, its weights, hashes of tensors and file."""
    return {
        "network": source.network,
        "weights": Path(source.weights).name,
        "weights_sha256": weights_hash,
        "weights_file_sha256": source.sha256,
    }


def write_provenance(
    folder: Path,
    scores: pd.DataFrame,
    pixels: Pixels | None,
    network: Mapping[str, Any],
    extra_forwards: Mapping[str, Mapping[str, int]],
) -> Path:
    """Writes ``provenance.json`` beside metrics.csv.

    Args:
        folder: output directory of the run.
        scores: table of scores.
        pixels: reads an image of the table.
        network: ``network`` and ``weights`` in words, ``weights_sha256`` (of all tensors), ``weights_file_sha256``,
            ``fitted_on`` (hash of the fitting images), ``fit`` (its environment and images), ``command``.
        extra_forwards: detector -> forwards per image beyond the shared one.
    """
    costs = {name: dict(cost) for name, cost in extra_forwards.items() if name in scores and any(cost.values())}
    content = {
        **network,
        "images": image_lists(scores, pixels),
        "accuracy": accuracy(scores),
        "extra_forwards": costs,
        "environment": environment(),
    }
    return write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Reads ``provenance.json`` and checks the kinds of its values.

    Raises:
        InputError: if the file does not exist, or holds something else than ``test`` writes.
    """
    path = folder / FILE
    content = read_json(path)
    if not content:
        raise InputError(f"{folder} has no {FILE}, which says which images were scored: run test again")
    kinds: dict[str, type | tuple[type, ...]] = {"images": list, "accuracy": (float, int, type(None))}
    kinds |= dict.fromkeys(("network", "weights", "weights_sha256", "fitted_on", "command"), str)
    kinds |= dict.fromkeys(("extra_forwards", "environment"), dict)
    wrong = [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]
    parts = {"dataset": str, "role": str, "group": str, "images": int, "sha256": str}
    for entry in content["images"] if "images" not in wrong else []:
        if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kind) for key, kind in parts.items()):
            wrong.append("images")
            break
    if wrong:
        raise InputError(f"{path} is damaged or of another version ({', '.join(wrong)}): run test again")
    return content
