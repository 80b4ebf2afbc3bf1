"""What a sweep leaves behind: every number as CSV, a table for people as Markdown, a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.commands.sweep.picture import draw
from lightning_ood.ops.files import write_text
from lightning_ood.report.table import MEAN

EITHER = "any"  # where a detector does not depend on a parameter


def long_table(finished: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per point, detector and set: the parameters, then the columns of metrics.csv.

    A detector that several points share (their parameters are of another one) is there once; the parameters in which
    those points differ are ``any``.
    """
    shared: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result, point in zip(finished, flat([result["point"] for result in finished]), strict=True):
        for fit in dict.fromkeys(row["fit"] for row in result["metrics"]):
            shared.setdefault((result["run"], fit), []).append({**result, "point": point})
    rows = []
    for (_, fit), results in shared.items():
        texts = [{name: label(value) for name, value in result["point"].items()} for result in results]
        same = {name: len({text[name] for text in texts}) == 1 for name in texts[0]}
        parameters = {name: text if same[name] else EITHER for name, text in texts[0].items()}
        for row in results[0]["metrics"]:
            if row["fit"] == fit:
                rows.append({**parameters, **{key: value for key, value in row.items() if key != "fit"}})
    return pd.DataFrame(rows)


def flat(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mappings of settings that have the same names at every point are a parameter for each name."""
    for name in points[0]:
        values = [point[name] for point in points]
        keys = {tuple(v) if isinstance(v, Mapping) and "class_path" not in v else () for v in values}
        if len(keys) == 1 and keys != {()}:
            below = [{f"{name}.{key}": v for key, v in point[name].items()} for point in points]
            rest = [{key: v for key, v in point.items() if key != name} for point in points]
            return flat([{**b, **r} for b, r in zip(below, rest, strict=True)])
    return [dict(point) for point in points]


def write(table: pd.DataFrame, out: Path, stem: str, lines: bool) -> str:
    """Writes ``<stem>.csv``, ``<stem>.md`` and ``<stem>.png``; returns the Markdown.

    Args:
        table: what :func:`long_table` gave.
        out: the folder.
        stem: name of the files.
        lines: whether the points are a grid, which the picture draws as lines.
    """
    short = short_names(list(table.columns[: table.columns.get_loc("detector")]))
    write_text(out / f"{stem}.csv", table.to_csv(index=False, float_format="%.10g"))
    named = table.rename(columns=short)
    varied = [name for name in short.values() if named[name].nunique() > 1]
    text = markdown(named, varied)
    write_text(out / f"{stem}.md", text)
    draw(named, varied, out / f"{stem}.png", lines)
    return text


def markdown(table: pd.DataFrame, parameters: list[str]) -> str:
    """FPR95 / AUROC in percent: a row per point and detector, a column per set and per group of several sets."""
    columns = sets_of(table)
    several = table["detector"].nunique() > 1
    heads = [*parameters, *(["detector"] if several or not parameters else []), *columns]
    texts = len(heads) - len(columns)
    lines = [f"| {' | '.join(heads)} |", "| " + " | ".join(["---"] * texts + ["---:"] * len(columns)) + " |"]
    best = {
        name: (table.loc[at, "fpr95"].round(1).min(), table.loc[at, "auroc"].round(1).max())
        for name, at in columns.items()
    }
    for key, rows in table.groupby([*parameters, "detector"], sort=False, dropna=False):
        cells = [str(cell) for cell in key][:texts]
        for name, at in columns.items():
            row = rows[at[rows.index]].iloc[0]
            pair = zip((row["fpr95"], row["auroc"]), best[name], strict=True)
            cells.append(" / ".join(f"**{v:.1f}**" if round(v, 1) == top else f"{v:.1f}" for v, top in pair))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def sets_of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Name of each set, and of each group of several -> where its rows are."""
    sets = table[table["dataset"] != MEAN]
    found = {str(name): table["dataset"] == name for name in sets["dataset"].unique()}
    for group, names in sets.groupby("group", sort=False)["dataset"].nunique().items():
        if names > 1:
            found[f"mean {group}"] = (table["dataset"] == MEAN) & (table["group"] == group)
    return found


def short_names(parameters: Sequence[str]) -> dict[str, str]:
    """The end of each dotted name, as long as it takes to tell them apart."""
    parts = {name: [part for part in name.split(".") if part != "init_args"] for name in parameters}
    length = 1
    while len({tuple(part[-length:]) for part in parts.values()}) < len(parts):
        length += 1
    return {name: ".".join(part[-length:]) for name, part in parts.items()}


def describe(point: Mapping[str, Any]) -> str:
    """A point in a line."""
    short = short_names(list(point))
    return ", ".join(f"{short[name]}={label(value)}" for name, value in point.items())


def label(value: Any) -> str:
    """A value for people: of a class its name and arguments, of a file its stem."""
    if isinstance(value, Mapping) and "class_path" in value:
        given = ", ".join(f"{name}={label(v)}" for name, v in (value.get("init_args") or {}).items())
        return str(value["class_path"]).rpartition(".")[2] + (f"({given})" if given else "")
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name}({label(v)})" if isinstance(v, Mapping) else f"{name}={label(v)}" for name, v in value.items()
        )
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
