"""Fills the tables of ``docs/choose.md`` with the cells that they quote: ``python -m tools.docs choose --write``.

A column whose heading holds a link is a quotation: the link's address is a committed table, Markdown or a run's
``metrics.csv``, and its text is a column there (of ``metrics.csv`` an OOD set or the mean of a group). ``images 100:``
before a link picks the rows of the source whose column ``images`` is 100. All other columns choose the row.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

from lightning_ood.errors import InputError

LINK = re.compile(r"(?:(?P<key>\w+) (?P<value>\w+): )?(?:[^\[]* )?\[(?P<column>[^\]]+)\]\((?P<path>[^)]+)\)")


def filled(text: str, folder: Path) -> str:
    """Returns a page with the cells of its quoted columns read from their sources.

    Args:
        text: the page.
        folder: where its relative links start from.

    Raises:
        InputError: if a source has no such column or row.
    """
    lines, headings = text.splitlines(), [""]
    for i, line in enumerate(lines):
        if not line.startswith("|"):
            headings = [""]
        elif i and lines[i - 1].startswith("|"):
            links = [LINK.fullmatch(heading) for heading in headings]
            if any(links) and not line.startswith("| ---"):
                lines[i] = _row(headings, links, cells(line), folder)
        else:
            headings = cells(line)
    return "\n".join(lines) + "\n"


def cells(line: str) -> list[str]:
    """Splits a row of a Markdown table."""
    return [" ".join(cell.split()) for cell in line.strip().strip("|").split("|")]


def _row(headings: list[str], links: list[re.Match[str] | None], row: list[str], folder: Path) -> str:
    row = [*row, *[""] * (len(headings) - len(row))]
    chosen = {heading: cell for heading, cell, link in zip(headings, row, links, strict=True) if link is None}
    for i, link in enumerate(links):
        if link is not None:
            keys = {**chosen, link["key"]: link["value"]} if link["key"] else chosen
            path = (folder / link["path"]).resolve()
            row[i] = _of_run(path, link["column"], **keys) if path.suffix == ".csv" else _of_table(path, link, keys)
    return "| " + " | ".join(row) + " |"


def _of_run(path: Path, column: str, detector: str) -> str:
    """Returns a detector's AUROC on a set, or the mean of a group, with ``!`` where the run doubts it."""
    for row in _csv(path):
        if row["detector"] == detector and column in (row["dataset"], row["group"] if row["dataset"] == "mean" else ""):
            doubted = any(doubt["detector"] == detector for doubt in _csv(path.with_name("doubts.csv")))
            return f"{float(row['auroc']):.1f}" + " !" * doubted
    raise InputError(f"{path} has no row of {detector} on {column}")


def _of_table(path: Path, link: re.Match[str], keys: dict[str, str]) -> str:
    for header, rows in _tables(path):
        for row in rows if {link["column"], *keys} <= set(header) else ():
            found = dict(zip(header, row, strict=False))
            if all(found[key] == value for key, value in keys.items()):
                return found[link["column"]]
    raise InputError(f"{path} has no table with the column {link['column']!r} and a row of {keys}")


@cache
def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def _tables(path: Path) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and the rows of each Markdown table, without marks of the best."""
    blocks = re.findall(r"(?:^\|.*\n?)+", path.read_text(encoding="utf-8").replace("*", ""), re.MULTILINE)
    tables = [[cells(line) for line in block.splitlines()] for block in blocks]
    return [(header, rows) for header, _, *rows in tables]
