"""The two tables of a run: scores.parquet (a row per image) and metrics.csv (a row per detector and set)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lightning_ood.errors import InputError
from lightning_ood.metrics.intervals import auroc_interval, fpr95_draws, fpr95_interval
from lightning_ood.metrics.rates import METRICS, Comparison, sort_scores
from lightning_ood.ops.files import write_text, write_whole

IMAGE_COLUMNS = {  # of scores.parquet, before the detectors
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
MEAN = "mean"  # what stands under `dataset` in the row of a group
NO_GROUP = "ood"  # the group of OOD sets that were given none
ROLES = ("id", "csid", "ood")  # csid: covariate-shifted ID
FULL_SPECTRUM = "fs/"  # before set and group in the rows that count csid images as ID; no name holds a slash


def detectors_of(scores: pd.DataFrame) -> list[str]:
    """Names of the detectors in a table of scores, in its order."""
    return [str(name) for name in scores.columns if name not in IMAGE_COLUMNS]


def check_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The table with the types of the contract: columns in order, scores in float32, a group for every set.

    Raises:
        InputError: if a column is missing, a role unknown, or the name of a set is that of another set or
            of the row of a group's mean.
    """
    missing = [name for name in IMAGE_COLUMNS if name not in scores.columns]
    if missing:
        raise InputError(f"the table of scores lacks {', '.join(missing)}; it has {', '.join(map(str, scores))}")
    roles = set(scores["role"].unique()) - set(ROLES)
    if roles:
        raise InputError(f"unknown role {', '.join(map(repr, roles))} in the table of scores: {', '.join(ROLES)}")
    if (scores["dataset"] == MEAN).any():
        raise InputError(f"a set cannot be called {MEAN!r}: that is the row of a group in metrics.csv; rename the set")
    groups = scores[scores["role"] == "ood"].groupby("dataset")["group"].nunique()
    if (groups > 1).any():
        raise InputError(f"the set {groups.idxmax()!r} stands in several groups; give it one name in each")
    detectors = detectors_of(scores)
    table = scores[[*IMAGE_COLUMNS, *detectors]].astype({**IMAGE_COLUMNS, **dict.fromkeys(detectors, "float32")})
    return table.assign(group=table["group"].fillna(table["role"].map({"id": "id", "csid": "csid", "ood": NO_GROUP})))


def write_scores(scores: pd.DataFrame, run_dir: Path | str) -> Path:
    """Writes ``scores.parquet``; the file appears when it is whole."""
    table = check_scores(scores)
    return write_whole(Path(run_dir) / "scores.parquet", lambda path: table.to_parquet(path, index=False))


def read_scores(run_dir: Path | str) -> pd.DataFrame:
    """Reads ``scores.parquet`` of a run.

    Raises:
        InputError: if there is none.
    """
    path = Path(run_dir) / "scores.parquet"
    if not path.is_file():
        raise InputError(f"no scores at {path}: `python train.py test` writes them")
    return check_scores(pd.read_parquet(path))


def write_metrics(metrics: pd.DataFrame, run_dir: Path | str) -> Path:
    """Writes ``metrics.csv``; the file appears when it is whole."""
    return write_text(Path(run_dir) / "metrics.csv", metrics.to_csv(index=False, float_format="%.10g"))


def accuracy(scores: pd.DataFrame) -> float | None:
    """Share of the labelled ID images that are classified rightly, in percent; None where no label is known."""
    return _share_right(scores[scores["role"] == "id"])


def shifted(scores: pd.DataFrame) -> dict[str, tuple[int, float | None]]:
    """Covariate-shifted ID sets -> number of images, and accuracy in percent (None where no label is known)."""
    sets = scores[scores["role"] == "csid"].groupby("dataset", sort=False)
    return {str(name): (len(images), _share_right(images)) for name, images in sets}


def without_csid(table: pd.DataFrame) -> pd.DataFrame:
    """The images that are scored in every benchmark, or the rows of metrics.csv that come from them alone."""
    if "role" in table:
        return table[table["role"] != "csid"]
    return table[~table["group"].str.startswith(FULL_SPECTRUM)]


def _share_right(images: pd.DataFrame) -> float | None:
    images = images[images["label"].notna()]
    if images.empty:
        return None
    return 100 * float((images["label"].astype("int64") == images["prediction"].astype("int64")).mean())


def summarise(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The rows of metrics.csv, in percent.

    Per detector a row for each OOD set, then one for each group: the mean over its sets, ``n_ood`` summed, ``n_id``
    the ID images that all sets share. Where there are covariate-shifted ID sets, the same rows again with their images
    counted as ID (full spectrum), set and group marked ``fs/``; ``attrs["shifted"]`` holds what :func:`shifted` says.

    Args:
        scores: table of scores.
        seed: of the draws behind the intervals of FPR95.

    Raises:
        InputError: if there is no ID or no OOD image, or a score is not finite (detector, set and image are named).
    """
    scores = check_scores(scores)
    is_id, is_ood = ((scores["role"] == role).to_numpy(dtype=bool) for role in ("id", "ood"))
    if not is_ood.any() or not is_id.any():
        raise InputError(f"no {'OOD' if is_id.any() else 'ID'} image in the table of scores")
    rows_of = {(str(g), str(d)): rows for (g, d), rows in _positions(scores[is_ood], np.flatnonzero(is_ood)).items()}
    known = {"": is_id} if (is_id | is_ood).all() else {"": is_id, FULL_SPECTRUM: ~is_ood}
    rows = []
    for detector in detectors_of(scores):
        values = scores[detector].to_numpy()
        _check_finite(values, scores, detector)
        outside = {key: sort_scores(values[at]) for key, at in rows_of.items()}
        for mark, inside in known.items():
            in_distribution = sort_scores(values[inside])
            sets = {(mark + g, mark + d): Comparison(in_distribution, ood) for (g, d), ood in outside.items()}
            rows += _rows(detector, sets, seed)
    metrics = pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
    metrics.attrs["shifted"] = shifted(scores)
    return metrics


def _positions(ood: pd.DataFrame, positions: np.ndarray) -> Mapping[tuple[str, str], np.ndarray]:
    """(group, dataset) -> rows of the table, in order of appearance."""
    grouped = ood.groupby(["group", "dataset"], sort=False).indices
    first = sorted(grouped, key=lambda key: grouped[key][0])
    return {key: positions[grouped[key]] for key in first}


def _rows(detector: str, sets: Mapping[tuple[str, str], Comparison], seed: int) -> list[dict[str, object]]:
    """One detector's rows of metrics.csv."""
    draws = {key: fpr95_draws(sets[key], name="/".join(key), seed=seed) for key in sets}
    groups = {group: [key for key in sets if key[0] == group] for group, _ in sets}
    wanted = [(group, dataset, [(group, dataset)]) for group, dataset in sets]
    wanted += [(group, MEAN, members) for group, members in groups.items()]
    values = {key: comparison.values() for key, comparison in sets.items()}
    rows = []
    for group, dataset, members in wanted:
        mean = {name: float(np.mean([values[key][name] for key in members])) for name in METRICS}
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
