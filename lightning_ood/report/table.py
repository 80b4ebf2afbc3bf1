"""The two tables of a run: scores.parquet (one row per image) and metrics.csv (one row per detector and set)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lightning_ood.errors import InputError, context
from lightning_ood.metrics.intervals import auroc_interval, fpr95_draws, fpr95_interval
from lightning_ood.metrics.rates import METRICS, TRAPEZOID, Comparison, falls, sort_scores
from lightning_ood.ops.files import write_whole
from lightning_ood.ops.tables import read_csv, write_csv

IMAGE_COLUMNS = {  # columns of scores.parquet before the detectors
    "dataset": "string",
    "role": "string",
    "group": "string",
    "index": "int64",
    "path": "string",
    "label": "Int64",
    "prediction": "int64",
}
INTERVALS = ("auroc_low", "auroc_high", "fpr95_low", "fpr95_high")
METRIC_COLUMNS = ("detector", "dataset", "group", "n_id", "n_ood", *METRICS, *INTERVALS)
MEAN = "mean"  # `dataset` in the row of a group mean
NO_GROUP = "ood"  # group of OOD sets without a group
ROLES = ("id", "csid", "ood")  # csid: covariate-shifted ID
_HASH = b"lightning_ood.sha256"  # key in the metadata of scores.parquet; a table written by others has none
LIMIT = "limit"  # attribute of a table of scores and column of metrics.csv, where `data.limit` was set
_LIMIT = b"lightning_ood.limit"  # key in the metadata of scores.parquet
FULL_SPECTRUM = "fs/"  # prefix of set and group in rows that count csid images as ID; names contain no slash


def limit_line(limit: int | None) -> str:
    """Says that a run read a part of its images alone; empty where it read all."""
    return "" if limit is None else f"Limited to at most {limit} images a set (data.limit)."


def detectors_of(scores: pd.DataFrame) -> list[str]:
    """Returns the names of the detectors in a table of scores, in column order."""
    return [str(name) for name in scores.columns if name not in IMAGE_COLUMNS]


def rows_of(scores: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Returns the row positions of each OOD set; the ID images come first, under the empty name."""
    is_id = (scores["role"] == "id").to_numpy(dtype=bool)
    names = scores["dataset"].to_numpy()
    sets = scores["dataset"][~is_id].drop_duplicates()
    return {"": np.flatnonzero(is_id), **{str(name): np.flatnonzero((names == name) & ~is_id) for name in sets}}


def is_best(values: NDArray[np.float64], metric: str) -> NDArray[np.bool_]:
    """Marks the values ``[D, ...]`` that are the best of their column to one digit; equal digits are all marked."""
    shown = np.asarray(values, dtype=np.float64).round(1)
    return shown == (np.nanmin(shown, axis=0) if falls(metric) else np.nanmax(shown, axis=0))


def check_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Checks a table of scores and returns it with columns in order, scores in float32 and a group for every set.

    Raises:
        InputError: if a column is missing or has another type, a role is invalid, or a set is called ``mean`` or is in
            several groups.
    """
    missing = [name for name in IMAGE_COLUMNS if name not in scores.columns]
    if missing:
        raise InputError(f"the table of scores lacks {', '.join(missing)}; it has {', '.join(map(str, scores))}")
    roles = set(scores["role"].unique()) - set(ROLES)
    if roles:
        raise InputError(
            f"unknown role {', '.join(map(repr, roles))} in the table of scores; write one of {', '.join(ROLES)}"
        )
    if (scores["dataset"] == MEAN).any():
        raise InputError(f"a set cannot be called {MEAN!r}, the name of group means in metrics.csv; rename the set")
    groups = scores[scores["role"] == "ood"].groupby("dataset")["group"].nunique()
    if (groups > 1).any():
        raise InputError(f"the set {groups.idxmax()!r} is in several groups; give it another name in each")
    detectors = detectors_of(scores)
    types = {**IMAGE_COLUMNS, **dict.fromkeys(detectors, "float32")}
    try:
        table = scores[[*IMAGE_COLUMNS, *detectors]].astype(types)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a column of the table of scores has another type than it should ({error})") from error
    return table.assign(group=table["group"].fillna(table["role"].map({"id": "id", "csid": "csid", "ood": NO_GROUP})))


def write_scores(scores: pd.DataFrame, run_dir: Path | str) -> Path:
    """Writes ``scores.parquet`` atomically, with a hash of the table that ``read_scores`` compares."""
    table = check_scores(scores)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    limit = {_LIMIT: str(scores.attrs[LIMIT]).encode()} if LIMIT in scores.attrs else {}
    arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _HASH: _hash(table), **limit})

    def write(path: Path) -> None:
        with path.open("wb") as file:  # PyArrow takes only paths in UTF-8
            pq.write_table(arrow, file)

    return write_whole(Path(run_dir) / "scores.parquet", write)


def _hash(table: pd.DataFrame) -> bytes:
    """Returns the SHA-256 of names and values of a checked table; not of how the file lays them out."""
    sha = hashlib.sha256(repr(list(table)).encode())
    sha.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return sha.hexdigest().encode()


def read_scores(run_dir: Path | str) -> pd.DataFrame:
    """Reads ``scores.parquet`` from the folder of a run.

    Raises:
        InputError: if the file does not exist or is damaged, lacks ID or OOD images or detectors, an image has several
            rows, or a column of scores is not floating.
    """
    path = Path(run_dir) / "scores.parquet"
    if not path.is_file():
        raise InputError(f"no scores at {path}; write them with `python train.py test`")
    try:
        with path.open("rb") as file:
            arrow = pq.read_table(file)
        table, stored = arrow.to_pandas(), (arrow.schema.metadata or {}).get(_HASH)
        limit = (arrow.schema.metadata or {}).get(_LIMIT)
        attributes = {} if limit is None else {LIMIT: int(limit)}
    except Exception as error:  # the reader raises whatever the bytes lead it to
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as a table ({first}): run test again") from error
    with context(str(path)):
        checked = check_scores(table)
        if stored is not None and stored != _hash(checked):
            raise InputError("the table is damaged or was changed after it was written: run test again")
        _check_columns(table[detectors_of(table)])
        _check_rows(checked)
    checked.attrs = attributes
    return checked


def _check_columns(scores: pd.DataFrame) -> None:
    wrong = [f"{name} ({kind})" for name, kind in scores.dtypes.items() if not pd.api.types.is_float_dtype(kind)]
    if wrong:
        raise InputError(
            f"{', '.join(wrong)}: every column but {', '.join(IMAGE_COLUMNS)} is a detector's and holds floating-point "
            "scores; drop this column, or convert it if it holds scores"
        )


def _check_rows(scores: pd.DataFrame) -> None:
    lacks = [f"no row of the role {role!r}" for role in ("id", "ood") if role not in set(scores["role"])]
    lacks += [] if detectors_of(scores) else ["no detector's column"]
    if lacks:
        raise InputError(f"the table has {' and '.join(lacks)}: run test again")
    repeated = scores.duplicated(["role", "dataset", "index"])
    if repeated.any():
        first = scores[repeated].iloc[0]
        raise InputError(
            f"{int(repeated.sum())} of {len(scores)} rows repeat an image, the first is index {first['index']} of "
            f"{first['dataset']}; drop the repetitions, or write the scores anew with `python train.py test`"
        )


def write_metrics(metrics: pd.DataFrame, run_dir: Path | str) -> Path:
    """Writes ``metrics.csv`` atomically."""
    return write_csv(metrics, Path(run_dir) / "metrics.csv")


def read_metrics(run_dir: Path | str) -> pd.DataFrame:
    """Reads ``metrics.csv``; names that look like numbers stay names."""
    return read_csv(Path(run_dir) / "metrics.csv", dtype=dict.fromkeys(("detector", "dataset", "group"), str))


def accuracy(scores: pd.DataFrame) -> float | None:
    """Computes the accuracy on labelled ID images in percent; None where no image has a label."""
    return _accuracy(scores[scores["role"] == "id"])


def shifted(scores: pd.DataFrame) -> dict[str, tuple[int, float | None]]:
    """Returns number of images and accuracy in percent (None without labels) of each covariate-shifted ID set."""
    sets = scores[scores["role"] == "csid"].groupby("dataset", sort=False)
    return {str(name): (len(images), _accuracy(images)) for name, images in sets}


def without_csid(table: pd.DataFrame) -> pd.DataFrame:
    """Drops covariate-shifted ID images from a table of scores, or full-spectrum rows from a table of metrics."""
    if "role" in table:
        return table[table["role"] != "csid"]
    return table[~table["group"].str.startswith(FULL_SPECTRUM)]


def _accuracy(images: pd.DataFrame) -> float | None:
    images = images[images["label"].notna()]
    if images.empty:
        return None
    return 100 * float((images["label"].astype("int64") == images["prediction"].astype("int64")).mean())


def summarise(scores: pd.DataFrame, seed: int = 0, trapezoid: bool = False) -> pd.DataFrame:
    """Computes the rows of metrics.csv, in percent.

    Each detector has a row per OOD set and a row per group: the mean over its sets, with ``n_ood`` summed and ``n_id``
    the number of ID images, which all sets share. Where there are covariate-shifted ID sets, the rows are repeated with
    these images counted as ID (full spectrum), with ``fs/`` before set and group; ``attrs["shifted"]`` is the result
    of :func:`shifted`. Scores of limited sets (``attrs["limit"]``) add the column ``limit``.

    Args:
        scores: table of scores.
        seed: seed of the draws for the FPR95 intervals.
        trapezoid: appends AUPR as OpenOOD integrates it, ``aupr_in_trapezoid`` and ``aupr_out_trapezoid``.

    Raises:
        InputError: if there is no ID or no OOD image, or a score is not finite (names detector, set and image).
    """
    limit = scores.attrs.get(LIMIT)
    scores = check_scores(scores)
    is_id, is_ood = ((scores["role"] == role).to_numpy(dtype=bool) for role in ("id", "ood"))
    if not is_ood.any() or not is_id.any():
        raise InputError(f"no {'OOD' if is_id.any() else 'ID'} image in the table of scores")
    positions = {(str(g), str(d)): rows for (g, d), rows in _positions(scores[is_ood], np.flatnonzero(is_ood)).items()}
    id_masks = {"": is_id} if (is_id | is_ood).all() else {"": is_id, FULL_SPECTRUM: ~is_ood}
    names = (*METRICS, *TRAPEZOID) if trapezoid else METRICS
    rows = []
    for detector in detectors_of(scores):
        values = scores[detector].to_numpy()
        _check_finite(values, scores, detector)
        ood_scores = {key: sort_scores(values[at]) for key, at in positions.items()}
        for mark, mask in id_masks.items():
            id_scores = sort_scores(values[mask])
            sets = {(mark + g, mark + d): Comparison(id_scores, ood) for (g, d), ood in ood_scores.items()}
            rows += _rows(detector, sets, seed, names)
    metrics = pd.DataFrame(rows, columns=[*METRIC_COLUMNS, *names[len(METRICS) :]])
    metrics.attrs["shifted"] = shifted(scores)
    return metrics.assign(**{LIMIT: limit}) if limit is not None else metrics


def _positions(ood: pd.DataFrame, positions: np.ndarray) -> Mapping[tuple[str, str], np.ndarray]:
    """Returns the rows of each (group, dataset), in order of appearance."""
    grouped = ood.groupby(["group", "dataset"], sort=False).indices
    first = sorted(grouped, key=lambda key: grouped[key][0])
    return {key: positions[grouped[key]] for key in first}


def _rows(
    detector: str, sets: Mapping[tuple[str, str], Comparison], seed: int, names: Sequence[str]
) -> list[dict[str, object]]:
    """Computes one detector's rows of metrics.csv."""
    draws = {key: fpr95_draws(sets[key], name="/".join(key), seed=seed) for key in sets}
    groups = {group: [key for key in sets if key[0] == group] for group, _ in sets}
    wanted = [(group, dataset, [(group, dataset)]) for group, dataset in sets]
    wanted += [(group, MEAN, members) for group, members in groups.items()]
    values = {key: comparison.values(names) for key, comparison in sets.items()}
    rows = []
    for group, dataset, members in wanted:
        mean = {name: float(np.mean([values[key][name] for key in members])) for name in names}
        ends = (
            *auroc_interval([sets[key] for key in members]),
            *fpr95_interval(np.mean([draws[key] for key in members], axis=0), mean["fpr95"]),
        )
        percent = {name: 100 * value for name, value in (*mean.items(), *zip(INTERVALS, ends, strict=True))}
        counts = {"n_id": len(sets[members[0]].id), "n_ood": sum(len(sets[key].ood) for key in members)}
        rows.append({"detector": detector, "dataset": dataset, "group": group, **counts, **percent})
    return rows


def _check_finite(values: np.ndarray, scores: pd.DataFrame, detector: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        image = scores.iloc[bad[0]]
        where = f" ({image['path']})" if pd.notna(image["path"]) else ""
        raise InputError(
            f"{detector} scored image {image['index']}{where} of {image['dataset']} {values[bad[0]]}; "
            f"{bad.size} of {len(values)} scores are not finite"
        )
