"""Turns the scores of a test pass into a table, checks it, and publishes what is finite."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report import reader, training_auroc, write_scores
from lightning_ood.report.publish import publish


def table_of(rows: Any, scores: Any, detectors: list[str], data: OODDataModule) -> pd.DataFrame:
    """Returns the rows of scores.parquet from the rows and scores that ``ScoringCallback.finish_test`` gathered.

    Raises:
        InputError: if no image could be read.
    """
    parts = []
    for number, entry in enumerate(data.sets.values()):
        at = rows[:, 0] == number
        index, label, prediction = rows[at, 1], pd.array(rows[at, 2], dtype="Int64"), rows[at, 3]
        label[label < 0] = pd.NA
        left_out = len(entry.images) - len(index)
        if left_out:
            rank_zero_print(f"{entry.name}: {left_out} of {len(entry.images)} images were unreadable and are left out")
        if len(index) == 0:
            continue
        paths = [entry.images.paths[i] for i in index]
        columns = {"dataset": entry.name, "role": entry.role, "group": entry.group, "index": index, "path": paths}
        part = pd.DataFrame({**columns, "label": label, "prediction": prediction})
        parts.append(part.assign(**{name: scores[at, i] for i, name in enumerate(detectors)}))
    if not len(rows):
        raise InputError("none of the test images could be read")
    return pd.concat(parts, ignore_index=True)


def finish(
    table: pd.DataFrame,
    scoring: ScoringCallback,
    folder: Path,
    config: str = "",
    loggers: Iterable[Any] = (),
    data: OODDataModule | None = None,
) -> pd.DataFrame:
    """Writes, prints and logs the results of a run; thumbnails are read from ``data``.

    Raises:
        InputError: if no image of a set could be read, or scores of a detector are not finite; the other results
            have been written by then.
    """
    broken = _broken(table, list(scoring.suite.detectors))
    table = table.drop(columns=list(broken))
    write_scores(table, folder)
    wrong = [*_unread(table, data), *broken.values()] if data else [*broken.values()]
    if wrong and (len(broken) == len(scoring.suite.detectors) or not {"id", "ood"}.issubset(table["role"])):
        raise InputError("; ".join(wrong))
    costs = {name: detector.extra_forwards for name, detector in scoring.suite.detectors.items()}
    read = reader(data.root, {entry.name: entry.images for entry in data.sets.values()}) if data else None
    metrics = publish(table, folder, _summaries(table, scoring), config, loggers, costs, read)
    if wrong:
        raise InputError("; ".join(wrong) + f". The other scores and their table are in {folder}")
    return metrics


def _unread(table: pd.DataFrame, data: OODDataModule) -> list[str]:
    """Returns a message for each set of which no image could be read."""
    read = set(table["dataset"])
    empty = [entry for entry in data.sets.values() if entry.name not in read]
    return [f"{entry.name}: none of its {len(entry.images)} images could be read" for entry in empty]


def _broken(table: pd.DataFrame, detectors: list[str]) -> dict[str, str]:
    """Maps each detector with a score that is not finite to a message that names the first such image."""
    broken = {}
    for name in detectors:
        bad = table[~table[name].abs().lt(float("inf"))]
        if len(bad):
            first = bad.iloc[0]
            image = f"image {first['index']}" + (f" ({first['path']})" if first["path"] else "")
            count = f"{len(bad)} of {len(table)} scores are not finite"
            broken[name] = f"detector {name!r} on {first['dataset']}, {image}: {first[name]} ({count})"
    return broken


def _summaries(table: pd.DataFrame, scoring: ScoringCallback) -> dict[str, dict[str, Any]]:
    """Returns each detector's summary of its fit, for the report."""
    known = table[table["role"] == "id"]
    return {
        name: {**scoring.suite.detectors[name].summary(fitted), **training_auroc(fitted, known[name].to_numpy())}
        for name in scoring.suite.detectors
        if name in table
        for fitted in (scoring.suite.fitted.get(name, {}),)
    }
