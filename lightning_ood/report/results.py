"""Writes, prints and logs the results of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.words import class_words
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report import reader, training_auroc, write_scores
from lightning_ood.report.doubts import all_doubts
from lightning_ood.report.failures import class_names
from lightning_ood.report.provenance import write_provenance
from lightning_ood.report.publish import publish
from lightning_ood.report.run_results import RunResults
from lightning_ood.report.table import LIMIT, detectors_of


def table_of(rows: Any, scores: Any, detectors: list[str], data: OODDataModule) -> pd.DataFrame:
    """Returns the rows of scores.parquet.

    Args:
        rows: ``[N, 4]``: number of the set, index of the image in it, label (below 0: none), predicted class.
        scores: ``[N, D]``, one column per detector.
        detectors: D names.
        data: the test sets, in the order of their numbers.

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
        paths = [_written(entry.images.paths[i]) for i in index]
        places = [entry.images.position(i) for i in index]
        columns = {"dataset": entry.name, "role": entry.role, "group": entry.group, "index": places, "path": paths}
        part = pd.DataFrame({**columns, "label": label, "prediction": prediction})
        parts.append(part.assign(**{name: scores[at, i] for i, name in enumerate(detectors)}))
    if not len(rows):
        raise InputError("none of the test images could be read")
    table = pd.concat(parts, ignore_index=True)
    table.attrs |= {} if data.limit is None else {LIMIT: data.limit}
    return table


def _written(path: str | None) -> str | None:
    """Escapes the bytes of a file name that are no UTF-8: tables hold text. An image in memory has no name."""
    return None if path is None else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def finish(
    results: RunResults,
    run_dir: Path,
    fitted: Mapping[str, Mapping[str, Tensor]],
    loggers: Iterable[Any] = (),
    data: OODDataModule | None = None,
    network: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Writes, prints and logs the table of scores and everything computed from it.

    Args:
        results: with the doubts about the fits; detectors whose scores are not finite are left out.
        run_dir: output directory of the run.
        fitted: detector -> its fitted tensors; those that keep training scores get the AUROC of these.
        loggers: Lightning loggers that receive the metrics and the pictures.
        data: the test sets, from which thumbnails are read.
        network: what ``write_provenance`` takes; None writes no provenance.

    Returns:
        The rows of metrics.csv.

    Raises:
        InputError: if no image of a set could be read, or scores of a detector are not finite; the other results
            have been written by then.
    """
    names = detectors_of(results.scores)
    broken = _broken(results.scores, names)
    table = results.scores.drop(columns=list(broken))
    write_scores(table, run_dir)
    wrong = [*_unread(table, data), *broken.values()] if data else [*broken.values()]
    if wrong and (len(broken) == len(names) or not {"id", "ood"}.issubset(table["role"])):
        raise InputError("; ".join(wrong))
    read = reader(data.root, {entry.name: entry.images.whole for entry in data.sets.values()}) if data else None
    if network is not None:
        write_provenance(run_dir, table, _pixels(data), network, results.costs)
    shown = replace(
        results,
        scores=table,
        summaries=_with_training_auroc(results.summaries, fitted, table),
        doubts=all_doubts(table, results.doubts),
        classes=_class_words(table, data) if data else None,
        read=read,
    )
    shown.save(run_dir)
    metrics = publish(shown, run_dir, loggers)
    if wrong:
        raise InputError("; ".join(wrong) + f". The other scores and their table are in {run_dir}")
    return metrics


def _with_training_auroc(
    summaries: Mapping[str, Mapping[str, Any]], fitted: Mapping[str, Mapping[str, Tensor]], table: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Adds the AUROC of ID test against training scores to the summaries of the detectors in the table."""
    id_rows = table[table["role"] == "id"]
    return {
        name: {**summary, **training_auroc(fitted.get(name, {}), id_rows[name].to_numpy())}
        for name, summary in summaries.items()
        if name in table
    }


def _pixels(data: OODDataModule | None) -> Callable[[str, int], bytes] | None:
    """Returns what reads the pixels of a test image."""
    if data is None:
        return None
    sets = {entry.name: entry.images.whole for entry in data.sets.values()}
    return lambda name, index: sets[name].pixels(index)[0]


def _class_words(table: pd.DataFrame, data: OODDataModule) -> list[str]:
    """Returns names of the classes for people, by label; from the images' folders where the data have none."""
    found = class_names(table)
    names = data.classes or [found.get(label, str(label)) for label in range(max(found) + 1)]
    return class_words(names, (data.id.train, data.id.test), data.root)


def _unread(table: pd.DataFrame, data: OODDataModule) -> list[str]:
    """Returns a message for each set of which no image could be read."""
    read = set(table["dataset"])
    empty = [entry for entry in data.sets.values() if entry.name not in read]
    return [f"{entry.name}: none of its {len(entry.images)} images could be read" for entry in empty]


def _broken(table: pd.DataFrame, detectors: list[str]) -> dict[str, str]:
    """Returns detector -> message about its first score that is not finite."""
    broken = {}
    for name in detectors:
        bad = table[~table[name].abs().lt(float("inf"))]
        if len(bad):
            first = bad.iloc[0]
            image = f"image {first['index']}" + (f" ({first['path']})" if first["path"] else "")
            count = f"{len(bad)} of {len(table)} scores are not finite"
            broken[name] = f"detector {name!r} on {first['dataset']}, {image}: {first[name]} ({count})"
    return broken
