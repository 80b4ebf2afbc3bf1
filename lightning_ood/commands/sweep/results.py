"""Writes the results of a sweep: all numbers as CSV, a table as Markdown, a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.commands.sweep.picture import draw
from lightning_ood.ops.files import write_text
from lightning_ood.ops.tables import write_csv
from lightning_ood.report.table import MEAN

ANY = "any"  # the value of a parameter on which a detector does not depend


def long_table(finished: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns a row per point, detector and set: the parameters, then the columns of metrics.csv.

    A detector that several points share is listed once; parameters in which these points differ are ``any``.
    """
    points = flat([result["point"] for result in finished])
    texts = [{name: label(value) for name, value in point.items()} for point in points]
    pairs = zip(finished, texts, strict=True)
    table = pd.DataFrame([{"run": result["run"], **text, **row} for result, text in pairs for row in result["metrics"]])
    shared = table.groupby(["run", "fit"], sort=False)
    for name in texts[0]:
        table[name] = table[name].where(shared[name].transform("nunique") == 1, ANY)
    return table.drop_duplicates(["run", "fit", "dataset", "group"]).drop(columns=["run", "fit"])


def flat(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Splits a parameter whose values are mappings with the same names into one parameter per name."""
    for name in points[0]:
        values = [point[name] for point in points]
        keys = {tuple(v) if isinstance(v, Mapping) and "class_path" not in v else () for v in values}
        if len(keys) == 1 and keys != {()}:
            below = [{f"{name}.{key}": v for key, v in point[name].items()} for point in points]
            rest = [{key: v for key, v in point.items() if key != name} for point in points]
            return flat([{**b, **r} for b, r in zip(below, rest, strict=True)])
    return [dict(point) for point in points]


def write(table: pd.DataFrame, out: Path, stem: str, lines: bool) -> str:
    """Writes a :func:`long_table` to ``<stem>.csv``, ``<stem>.md`` and ``<stem>.png``; returns the Markdown."""
    short = short_names(list(table.columns[: table.columns.get_loc("detector")]))
    write_csv(table, out / f"{stem}.csv")
    named = table.rename(columns=short)
    varied = [name for name in short.values() if named[name].nunique() > 1]
    text = markdown(named, varied)
    write_text(out / f"{stem}.md", text)
    draw(named, varied, out / f"{stem}.png", lines)
    return text


def markdown(table: pd.DataFrame, parameters: list[str]) -> str:
    """Returns FPR95 / AUROC in percent: a row per point and detector, a column per set and per group of several."""
    keys = [*parameters, "detector"]
    cells = {}
    for name, rows in _sets(table).items():
        rows = rows.drop_duplicates(keys).set_index(keys)
        cells[name] = _bold(rows["fpr95"], "min") + " / " + _bold(rows["auroc"], "max")
    names = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    body = pd.DataFrame(cells).reindex(names).fillna("-").reset_index()
    if parameters and table["detector"].nunique() == 1:
        body = body.drop(columns="detector")
    rule = ["---"] * (body.shape[1] - len(cells)) + ["---:"] * len(cells)
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in [body.columns, rule, *body.to_numpy()])


def _bold(values: pd.Series, best: str) -> pd.Series:
    """Formats percentages with one digit; all that equal the best at this precision are bold."""
    texts, rounded = values.map("{:.1f}".format), values.round(1)
    return texts.where(rounded != rounded.agg(best), "**" + texts + "**")


def _sets(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns the rows of each set, then of the mean of each group with several sets."""
    sets, means = table[table["dataset"] != MEAN], table[table["dataset"] == MEAN]
    found = {str(name): rows for name, rows in sets.groupby("dataset", sort=False)}
    counts = sets.groupby("group", sort=False)["dataset"].nunique()
    return found | {f"mean {group}": means[means["group"] == group] for group in counts.index[counts > 1]}


def short_names(parameters: Sequence[str]) -> dict[str, str]:
    """Maps dotted names to their last parts, as many as tell them apart."""
    parts = {name: [part for part in name.split(".") if part != "init_args"] for name in parameters}
    length = 1
    while len({tuple(part[-length:]) for part in parts.values()}) < len(parts):
        length += 1
    return {name: ".".join(part[-length:]) for name, part in parts.items()}


def describe(point: Mapping[str, Any]) -> str:
    """Formats a point in one line."""
    short = short_names(list(point))
    return ", ".join(f"{short[name]}={label(value)}" for name, value in point.items())


def label(value: Any) -> str:
    """Formats a value: class name and arguments of a class, stem of a YAML file."""
    if isinstance(value, Mapping) and "class_path" in value:
        given = ", ".join(f"{name}={label(v)}" for name, v in (value.get("init_args") or {}).items())
        return str(value["class_path"]).rpartition(".")[2] + (f"({given})" if given else "")
    if isinstance(value, Mapping):
        nested = {name: isinstance(v, Mapping) for name, v in value.items()}
        return ", ".join(f"{name}({label(v)})" if nested[name] else f"{name}={label(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return " + ".join(map(label, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text.endswith((".yaml", ".yml")):
        return Path(text).stem
    return text.rpartition(".")[2] if re.fullmatch(r"(\w+\.)+[A-Z]\w*", text) else text
