"""Doubts about the rows of a table: found in the scores, written beside metrics.csv, printed below the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from lightning_ood.errors import InputError
from lightning_ood.ops.tables import read_csv, write_csv
from lightning_ood.report.table import detectors_of

Doubts = Mapping[str, Sequence[str]]  # detector -> sentences, none where nothing is doubtful
_FILE = "doubts.csv"
TIED = 0.5  # share of the ID images with one and the same score from which on it is told


def all_doubts(scores: pd.DataFrame, fits: Doubts) -> dict[str, list[str]]:
    """Joins the doubts about the fits with those that the scores of ID test images show.

    Args:
        scores: table of scores.
        fits: detector -> doubts about its fit.

    Returns:
        detector -> sentences, for every detector of the table.
    """
    id_rows = scores[scores["role"] == "id"]
    return {name: [*fits.get(name, ()), *_tied(id_rows[name])] for name in detectors_of(scores)}


def _tied(scores: pd.Series) -> list[str]:
    """Doubts scores most of which are the same number."""
    if len(scores) < 2:
        return []
    share = float(scores.value_counts(normalize=True).iloc[0])
    if share <= TIED:
        return []
    which = "all" if share == 1 else f"{share:.0%} of the"
    return [
        f"it gives {which} ID test images the same score: AUROC and FPR95 count ties, not evidence; fit on more "
        "images, or leave it out"
    ]


def doubts_table(doubts: Doubts) -> pd.DataFrame:
    """Returns the columns ``detector`` and ``doubt``, a row per sentence."""
    rows = [(name, doubt) for name, said in doubts.items() for doubt in said]
    return pd.DataFrame(rows, columns=["detector", "doubt"])


def write_doubts(doubts: Doubts, folder: Path) -> Path:
    """Writes doubts.csv; only its header where nothing is doubtful."""
    return write_csv(doubts_table(doubts), folder / _FILE)


def read_doubts(folder: Path) -> dict[str, list[str]]:
    """Reads doubts.csv: detector -> sentences; empty where the file does not exist."""
    path = folder / _FILE
    if not path.is_file():
        return {}
    try:
        table = read_csv(path, dtype=str, na_values=[])
        return {str(name): list(rows["doubt"]) for name, rows in table.groupby("detector", sort=False)}
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it; the command goes on without it") from error


def by_sentence(doubts: Doubts) -> dict[str, list[str]]:
    """Returns sentence -> detectors that it is about, so that a sentence about many is told once."""
    found: dict[str, list[str]] = {}
    for name, said in doubts.items():
        for doubt in said:
            found.setdefault(doubt, []).append(name)
    return found


def print_doubts(doubts: Doubts, console: Console | None = None) -> None:
    """Prints a line per sentence, after the names of its detectors; nothing where nothing is doubtful."""
    told = by_sentence(doubts)
    if not told:
        return
    console = console or Console()
    console.print(Text("Doubtful rows (!):", style="yellow"))
    for doubt, names in told.items():
        console.print(Text.assemble((", ".join(names), "bold"), f": {doubt}"))
