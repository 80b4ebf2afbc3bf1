"""Published tables as files: what they hold, read and checked, and what of the data they need is here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lightning_ood.commands.arguments import resolve_paths
from lightning_ood.commands.merging import ALL
from lightning_ood.data.files import ImageList
from lightning_ood.data.opening import open_set
from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import METRICS
from lightning_ood.report.table import FULL_SPECTRUM

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEYS = {"title", "source", "checked", "network", "fitted_on", "metrics", "configs", "columns", "rows"}
ROW_KEYS = {"detector", "arguments", "differs", "checked", "cells"}


@dataclass(frozen=True)
class Row:
    """A method as published.

    Attributes:
        name: in the paper.
        detector: its name in our run; empty where we have none for it.
        spec: class path and arguments of that detector.
        cells: column -> metric -> published value in percent; what is not published is left out.
        differs: what our detector does otherwise.
    """

    name: str
    detector: str
    spec: dict[str, Any]
    cells: dict[str, dict[str, float]]
    differs: str


@dataclass(frozen=True, eq=False)
class Table:
    """A published table.

    Attributes:
        name: of its file.
        metrics: columns of metrics.csv that its cells hold.
        configs: the runs that compute it: config files, and what differs from the paper's; the paper's own first.
        columns: published column -> names of our set and of those that stand in for it.
        means: published column that is an average -> the sets it is over.
        rows: the methods.
        about: title, source, how the cells were checked, network and training set in words.
    """

    name: str
    metrics: tuple[str, ...]
    configs: list[tuple[tuple[str, ...], str]]
    columns: dict[str, list[str]]
    means: dict[str, list[str]]
    rows: list[Row]
    about: dict[str, str]


def read(path: Path) -> Table:
    """Reads a table's file.

    Raises:
        InputError: naming the file and what in it is not as it must be.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {error}") from error
    if set(content) != KEYS:
        differing = ", ".join(sorted(KEYS ^ set(content)))
        raise InputError(f"{path}: the keys must be {', '.join(sorted(KEYS))}; differing: {differing}")
    metrics = tuple(content["metrics"])
    if not set(metrics) <= set(METRICS):
        raise InputError(f"{path}: metrics are {', '.join(METRICS)}, not {', '.join(metrics)}")
    columns = content["columns"]
    means = {column: sets["mean_of"] for column, sets in columns.items() if isinstance(sets, dict)}
    sets = {column: names for column, names in columns.items() if column not in means}
    return Table(
        name=path.stem,
        metrics=metrics,
        configs=[(tuple(config["files"]), config.get("differs", "")) for config in content["configs"]],
        columns={column: [names] if isinstance(names, str) else names for column, names in sets.items()},
        means=means,
        rows=[_row(name, row, list(columns), metrics, path) for name, row in content["rows"].items()],
        about={key: content[key] for key in ("title", "source", "checked", "network", "fitted_on")},
    )


def _row(name: str, row: dict[str, Any], columns: list[str], metrics: tuple[str, ...], path: Path) -> Row:
    if unknown := set(row) - ROW_KEYS:
        raise InputError(f"{path}, {name}: no key {', '.join(unknown)}; there are {', '.join(sorted(ROW_KEYS))}")
    cells = [cell.split("/") for cell in str(row["cells"]).split()]
    if len(cells) != len(columns) or any(len(cell) not in (1, len(metrics)) for cell in cells):
        raise InputError(f"{path}, {name}: cells must be {len(columns)} times {'/'.join(metrics)}, or - for none")
    values = {
        column: {metric: float(value) for metric, value in zip(metrics, cell, strict=False) if value != "-"}
        for column, cell in zip(columns, cells, strict=True)
    }
    detector, spec = _detector(row.get("detector"), row.get("arguments", {}))
    return Row(name, detector, spec, values, row.get("differs", ""))


def _detector(name: str | None, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The one of configs/detectors, with other arguments under a name that says them."""
    if name is None:
        return "", {}
    spec = yaml.safe_load((ROOT / "configs" / "detectors" / f"{name}.yaml").read_text())
    if arguments:
        spec["init_args"] = {**spec.get("init_args", {}), **arguments}
        said = "_".join(f"{key}_{value}" for key, value in arguments.items() if isinstance(value, str | int | float))
        name = re.sub(r"\W+", "_", f"{name}_{said}")
    return name, spec


def merged(files: tuple[str, ...]) -> dict[str, Any]:
    """What the configs, each given after the one before, say of the network and the data."""
    out: dict[str, Any] = {"model": {}, "data": {}}
    for file in files:
        content = yaml.safe_load((ROOT / file).read_text())
        for part in out:
            out[part].update(content.get(part, {}))
    for named in out["data"].values():
        if isinstance(named, dict):
            named.pop(ALL, None)  # a group replaces that of the config before in any case
    return out


def lacking(files: tuple[str, ...], root: Path, download: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What of a run is not here.

    Args:
        files: its configs.
        root: of the data.
        download: count what torchvision can download as here.

    Returns:
        what without which there is no run -> why; OOD set -> why.
    """
    config = merged(files)
    data, weights = config["data"], config["model"].get("weights", "pretrained")
    needed = {key: missing(data["id"][key], root, download) for key in ("train", "test")}
    if Path(weights).suffix and not (root / weights).is_file():
        needed["weights"] = f"{weights}: no such file"
    sets = {name: first_missing(specs, root, download) for name, specs in sets_of(data).items()}
    return {key: why for key, why in needed.items() if why}, {name: why for name, why in sets.items() if why}


def sets_of(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What each row of metrics.csv needs beside the ID test set: an OOD set, and for ``fs/`` shifted ID sets too."""
    sets = {key.split("/")[1]: [spec] for key, spec in data["ood"].items()}
    shifted = list(data.get("csid", {}).values())
    return sets | ({f"{FULL_SPECTRUM}{name}": [*specs, *shifted] for name, specs in sets.items()} if shifted else {})


def first_missing(specs: list[Any], root: Path, download: bool) -> str:
    """Why the first of the sets that cannot be opened cannot; empty where all can."""
    return next((why for why in (missing(spec, root, download) for spec in specs) if why), "")


def missing(spec: Any, root: Path, download: bool) -> str:
    """Why a set cannot be opened, in a line; empty where it can."""
    try:
        open_set(_made(spec, root, download), root, transform=lambda image: image)  # type: ignore[arg-type, return-value]
    except Exception as error:  # of any type: torchvision's data sets raise what they like
        first = (str(error).splitlines() or [type(error).__name__])[0]
        name = f"{spec['class_path'].split('.')[-1]}: " if isinstance(spec, dict) and "class_path" in spec else ""
        return name + first.split(";")[0].split(". ")[0].replace(f"{root}/", "")
    return ""


def _made(spec: Any, root: Path, download: bool) -> Any:
    if not isinstance(spec, dict):
        return spec
    if "list" in spec:
        return ImageList(**spec)
    resolve_paths(spec, root)
    arguments = {key: _made(value, root, download) for key, value in spec.get("init_args", {}).items()}
    if not download and "download" in arguments:
        arguments["download"] = False
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**arguments)
