"""Runs side by side: a run's small files read and checked, and runs on the same images brought together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import METRICS
from lightning_ood.report.doubts import Doubts, read_doubts
from lightning_ood.report.provenance import read_provenance
from lightning_ood.report.table import FULL_SPECTRUM, INTERVALS, MEAN, METRIC_COLUMNS

_PUBLISHED = ("id", "network", "method", "sets", "source")  # columns beside the metrics
SHORT = 12  # digits of a hash in a sentence


@dataclass(frozen=True)
class Entry:
    """A run.

    Attributes:
        name: its name in the tables.
        metrics: rows of metrics.csv.
        about: content of provenance.json.
        doubts: detector -> what is doubtful about its row.
    """

    name: str
    metrics: pd.DataFrame
    about: dict[str, Any]
    doubts: Doubts

    @property
    def lists(self) -> list[dict[str, Any]]:
        """Image lists: ``dataset``, ``role``, ``group``, ``images`` and ``sha256`` of each test set."""
        return self.about["images"]

    @property
    def key(self) -> frozenset[tuple[str, ...]]:
        """Equal for runs that one table may rank: the same sets, in the same groups, with the same images."""
        return frozenset((x["role"], x["dataset"], x["group"], x["sha256"]) for x in self.lists)


@dataclass(frozen=True)
class Published:
    """A method as a paper reports it, for in-distribution images called ``id``.

    Attributes:
        cells: names of the sets that a value is the mean of -> metric -> percent.
    """

    id: str
    network: str
    method: str
    source: str
    cells: dict[frozenset[str], dict[str, float]] = field(default_factory=dict)


def read_entry(name: str, folder: Path) -> Entry:
    """Reads metrics.csv, doubts.csv and provenance.json of a run; nothing in them is executed.

    Raises:
        InputError: if a file is missing, a value is no percentage, a detector lacks a set, or the counts of images are
            not those of the image lists.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        raise InputError(f"there is no {path}; write it with `python train.py test`")
    metrics = _table(path, METRIC_COLUMNS)
    for column in (*METRICS, *INTERVALS, "n_id", "n_ood"):
        metrics[column] = _numbers(metrics[column], path, 1e12 if column.startswith("n_") else 100.0)
    if metrics[list(METRICS)].isna().any(axis=None):
        raise InputError(f"{path}: a metric is empty; write it anew with `python train.py report {folder}`")
    entry = Entry(name, metrics, read_provenance(folder), read_doubts(folder))
    _check(entry, path)
    return entry


def _table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        raise InputError(f"{path} lacks {', '.join(missing) or 'rows'}; its columns must be {', '.join(columns)}")
    return table


def _numbers(texts: pd.Series, path: Path, most: float) -> pd.Series:
    """Converts texts; empty ones become NaN."""
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = texts[(texts != "") & ~numbers.between(0, most)]
    if len(wrong):
        raise InputError(
            f"{path}, line {wrong.index[0] + 2}: {texts.name} is {wrong.iloc[0]!r}; write a number from 0 to {most:g}"
        )
    return numbers.astype("float64")


def _check(entry: Entry, path: Path) -> None:
    """Raises InputError unless every detector has every cell once, on as many images as the lists hold."""
    metrics = entry.metrics
    cells = {
        name: sorted(zip(rows["group"], rows["dataset"], strict=True)) for name, rows in metrics.groupby("detector")
    }
    expected = next(iter(cells.values()))
    for name, found in cells.items():
        if found != expected or len(set(found)) < len(found):
            raise InputError(f"{path}: {name} has not each set once; write it anew with `python train.py test`")
    counts = {(x["group"], x["dataset"]): x["images"] for x in entry.lists if x["role"] == "ood"}
    known = sum(x["images"] for x in entry.lists if x["role"] == "id")
    plain = metrics[(metrics["dataset"] != MEAN) & ~metrics["group"].str.startswith(FULL_SPECTRUM)]
    if {key for key in expected if key[1] != MEAN and not key[0].startswith(FULL_SPECTRUM)} != set(counts):
        raise InputError(f"{path} and provenance.json name different sets: they are of different tests; run test again")
    for row in plain.drop_duplicates(["group", "dataset"]).to_dict("records"):
        if (row["n_id"], row["n_ood"]) != (known, counts[row["group"], row["dataset"]]):
            raise InputError(
                f"{path}: {row['dataset']} counts {row['n_id']:.0f} ID and {row['n_ood']:.0f} OOD images, and "
                f"provenance.json {known} and {counts[row['group'], row['dataset']]}; run test again"
            )


def group_entries(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups runs that scored the same images, in order of appearance."""
    found: dict[frozenset[tuple[str, ...]], list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.key, []).append(entry)
    return list(found.values())


def differences(entries: Sequence[Entry]) -> list[str]:
    """Returns a sentence for each set whose images differ between runs on one ID set.

    Such runs are in separate tables. A set that only some of the runs have counts as different.
    """
    said = []
    for known in dict.fromkeys(_id_name(entry) for entry in entries):
        runs = [entry for entry in entries if _id_name(entry) == known]
        lists = {(x["dataset"], x["role"]): {} for entry in runs for x in entry.lists}  # type: ignore[var-annotated]
        for entry in runs:
            for x in entry.lists:
                lists[x["dataset"], x["role"]].setdefault((x["images"], x["sha256"]), []).append(entry.name)
        for (dataset, _), hashes in lists.items():
            among = [f"{count} images ({sha[:SHORT]}) in {', '.join(names)}" for (count, sha), names in hashes.items()]
            if len(hashes) > 1:
                said.append(f"{dataset} is {', '.join(among)}")
            elif len(names := next(iter(hashes.values()))) < len(runs):
                said.append(f"{dataset} is scored only in {', '.join(names)}")
    return said


def _id_name(entry: Entry) -> str:
    return next((str(x["dataset"]) for x in entry.lists if x["role"] == "id"), "")


def read_published(path: Path) -> list[Published]:
    """Reads a CSV of published values.

    Its columns: ``id`` (name of the ID set), ``network``, ``method``, ``sets`` (for a mean, the names joined by ``+``),
    ``source``, and columns of metrics.csv in percent.

    Raises:
        InputError: if the file is missing, lacks a column, or a value is no percentage.
    """
    if not path.is_file():
        raise InputError(f"--published {path}: there is no such file")
    table = _table(path, _PUBLISHED)
    metrics = [name for name in METRICS if name in table]
    if not metrics:
        raise InputError(f"{path} has no column of values; name at least one of {', '.join(METRICS)}")
    for name in metrics:
        table[name] = _numbers(table[name], path, 100.0)
    found: dict[tuple[str, ...], Published] = {}
    for row in table.to_dict("records"):
        about = tuple(row[key] for key in ("id", "network", "method", "source"))
        entry = found.setdefault(about, Published(*about))
        cells = entry.cells.setdefault(frozenset(row["sets"].split("+")), {})
        cells |= {name: row[name] for name in metrics if not pd.isna(row[name])}
    return list(found.values())
