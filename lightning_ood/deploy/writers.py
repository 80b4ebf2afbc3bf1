"""Writes predictions as they come: CSV, JSON lines, Parquet, or a table in the terminal."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from lightning_ood.deploy.prediction import Prediction
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_whole
from lightning_ood.ops.tables import as_text

Format = Literal["csv", "jsonl", "parquet", "table"]
FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet", "table")
_ENDINGS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_CHUNK = 4096  # rows of a Parquet row group


def format_of(output: Path | None, given: Format | None, terminal: bool) -> Format:
    """Returns the format: the one given, else that of the file's ending; without a file a table or CSV.

    Raises:
        InputError: if the ending says nothing, or Parquet has no file.
    """
    if given is None and output is None:
        return "table" if terminal else "csv"
    found = given or _ENDINGS.get(output.suffix.lower() if output else "")
    if found is None:
        raise InputError(f"--output {output}: end it in {', '.join(_ENDINGS)}, or give --format")
    if found == "parquet" and output is None:
        raise InputError("--format parquet writes a file: give --output FILE.parquet")
    return found


def write(
    predictions: Iterable[Prediction], output: Path | None, form: Format, stream: IO[str], columns: list[str]
) -> None:
    """Writes predictions.

    Args:
        predictions: written as they come, but for a table, which needs all of them to be laid out.
        output: a file, which appears when it is complete; ``stream`` where None.
        form: the format.
        stream: the standard output.
        columns: names of the columns, those of ``Prediction.row``.
    """
    writing: dict[Format, Callable[[Iterator[Prediction], IO[str], list[str]], None]]
    writing = {"csv": _csv, "jsonl": _json_lines, "table": _table}
    rows = iter(predictions)
    if form == "parquet":
        assert output is not None
        write_whole(output, lambda path: _parquet(rows, path, columns))
    elif output is None:
        writing[form](rows, stream, columns)
    else:
        write_whole(output, lambda path: _to_file(path, lambda file: writing[form](rows, file, columns)))


def columns_of(detectors: list[str]) -> list[str]:
    """Returns the names of the columns for these detectors."""
    one = Prediction("", scores=dict.fromkeys(detectors, 0.0), p_values=dict.fromkeys(detectors, 0.0))
    return list(one.row())


def _to_file(path: Path, call: Callable[[IO[str]], None]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        call(file)


def _plain(prediction: Prediction, columns: list[str]) -> dict[str, Any]:
    """Returns a row with None for what an unreadable image has not."""
    row = prediction.row()
    values = {name: row.get(name) for name in columns}
    unread = bool(prediction.error)
    for name, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            values[name] = None
    return {**values, "class_index": None, "label": None} if unread else values


def _csv(rows: Iterator[Prediction], stream: IO[str], columns: list[str]) -> None:
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: as_text(value) for name, value in _plain(row, columns).items()})


def _json_lines(rows: Iterator[Prediction], stream: IO[str], columns: list[str]) -> None:
    for row in rows:
        stream.write(json.dumps(_plain(row, columns), ensure_ascii=False) + "\n")


def _parquet(rows: Iterator[Prediction], path: Path, columns: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"image": pa.string(), "label": pa.string(), "error": pa.string()}
    kinds |= {"class_index": pa.int64(), "is_ood": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _CHUNK)):
            writer.write_table(pa.Table.from_pylist([_plain(row, columns) for row in some], schema))


def _table(rows: Iterator[Prediction], stream: IO[str], columns: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "label", "probability", "score", "p-value", "decision")
    for row in rows:
        if row.error:
            table.add_row(Text(row.image), "", "", "", "", Text(f"not read: {row.error}", style="yellow"))
            continue
        decision = Text("OOD", style="bold red") if row.is_ood else Text("ID", style="green")
        numbers = (f"{row.probability:.3f}", f"{row.score:.4g}", f"{row.p_value:.4f}")
        table.add_row(Text(row.image), Text(row.label), *numbers, decision)
    Console(file=stream, width=None if stream.isatty() else 120).print(table)
