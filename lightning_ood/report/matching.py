"""Checks that runs scored the same images and brings their rows into one order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from lightning_ood.errors import InputError
from lightning_ood.report.table import IMAGE_COLUMNS


def match_images(tables: Mapping[str, pd.DataFrame], sets: Iterable[str] = ()) -> dict[str, pd.DataFrame]:
    """Brings the rows of every run into the order of the first run.

    An image is identified by its set and path, or by set and index where paths are missing or not unique.

    Args:
        tables: run -> table of scores.
        sets: OOD sets to compare on; all where empty. The ID set is always kept.

    Raises:
        InputError: if the runs differ in their images (names a difference), or a set does not exist.
    """
    first, *others = tables
    chosen = {name: _only(table, set(sets), name) for name, table in tables.items()}
    reference = chosen[first]
    parts = {(role, dataset): rows for (role, dataset), rows in reference.groupby(["role", "dataset"], sort=False)}
    ordered = {first: pd.concat(parts.values(), ignore_index=True)}
    for other in others:
        theirs = {key: rows for key, rows in chosen[other].groupby(["role", "dataset"], sort=False)}
        for one, has, lacks in ((other, parts, theirs), (first, theirs, parts)):
            missing = [f"{dataset} ({role})" for role, dataset in has if (role, dataset) not in lacks]
            if missing:
                other_id = any(role == "id" for role, dataset in has if (role, dataset) not in lacks)
                advice = "" if other_id else ". Compare them on the sets they share: --sets NAME …"
                raise InputError(f"the runs have not scored the same images: {one} has no {', '.join(missing)}{advice}")
        rows = [_in_order(parts[key], theirs[key], key[1], first, other) for key in parts]
        ordered[other] = pd.concat(rows, ignore_index=True).assign(group=ordered[first]["group"])
    for name, table in tables.items():
        ordered[name].attrs = table.attrs  # whether its sets were limited
    return ordered


def _only(table: pd.DataFrame, sets: set[str], run: str) -> pd.DataFrame:
    existing = table.loc[table["role"] == "ood", "dataset"].drop_duplicates()
    missing = sets - set(existing)
    if missing:
        raise InputError(f"--sets: {run} has no {', '.join(sorted(missing))}; it has {', '.join(existing)}")
    return table[(table["role"] == "id") | table["dataset"].isin(sets)] if sets else table


def _in_order(mine: pd.DataFrame, theirs: pd.DataFrame, dataset: str, first: str, other: str) -> pd.DataFrame:
    """Returns the rows of ``theirs`` in the order of ``mine``."""
    by_path = all(rows["path"].notna().all() and rows["path"].is_unique for rows in (mine, theirs))
    key = "path" if by_path else "index"
    my_keys, their_keys = pd.Index(mine[key]), pd.Index(theirs[key])
    for one, missing in ((other, my_keys.difference(their_keys)), (first, their_keys.difference(my_keys))):
        if len(missing):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(
                f"the runs have not scored the same images of {dataset} ({len(mine)} in {first}, {len(theirs)} in "
                f"{other}): {one} lacks {'' if by_path else 'index '}{missing[0]}{more}"
            )
    found = theirs.set_index(key, drop=False).loc[mine[key]].reset_index(drop=True)
    for column in ("path", "label"):
        was, now = mine[column].reset_index(drop=True), found[column]
        unlike = was.notna() & now.notna() & (was != now).fillna(False)
        if unlike.any():
            at = int(unlike.to_numpy().argmax())
            raise InputError(
                f"the runs have not scored the same images of {dataset}: the {column} of index "
                f"{mine['index'].iloc[at]} is {was[at]} in {first} and {now[at]} in {other}"
            )
    return found[[*IMAGE_COLUMNS, *(name for name in theirs if name not in IMAGE_COLUMNS)]]
