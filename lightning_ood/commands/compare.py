"""``python train.py compare RUN…``: compares runs, or the detectors of one run, on the same images."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.commands.options import OptionParser
from lightning_ood.errors import InputError
from lightning_ood.ops.tables import write_csv
from lightning_ood.report.console import cost_line
from lightning_ood.report.differences import Entry, Scores, difference_table, differences, measure
from lightning_ood.report.fits import read_fits
from lightning_ood.report.matching import match_images
from lightning_ood.report.paper import Grid, Intervals, describe, paper_table, write_grid
from lightning_ood.report.table import LIMIT, MEAN, accuracy, limit_line, read_scores, without_csid

_HELP = """\
Compares runs, or the detectors of one run, on the images that all of them scored.

  compare runs/a                    the detectors of a run against its first detector
  compare runs/a runs/b             every detector of b against the same detector of a
  compare ours='runs/seed*'         repetitions of a run (seeds, checkpoints): mean and standard deviation
  compare base=runs/b0 base=runs/b1 ours='runs/a*'    mean against mean, for these repetitions

AUROC: DeLong's paired test. FPR95: the delta method for paired rates. With --bootstrap both: paired bootstrap over
images, conservative for FPR95. p-values are two-sided and not corrected for the number of comparisons, unless
--correct says so.

  compare runs/a --out tables --intervals brackets             a table for a paper: Markdown, LaTeX (booktabs), CSV
  compare runs/r18 runs/vit --out tables --by_network          detectors by networks, near and far means
"""


def table_of_runs(scores: Scores, entries: Sequence[Entry], options: PaperOptions) -> tuple[Grid, pd.DataFrame]:
    """Returns the table of a paper with its caption, and its values.

    Args:
        scores: result of ``open_runs``.
        entries: pairs of run and detector.
        options: how the table is written.
    """
    values = measure(scores, entries)
    shares = {run: accuracy(tables[0]) for run, tables in scores.runs.items()}
    costs: dict[str, Any] = {}
    for folder in options.folders:
        costs |= read_fits(folder / "report").get("costs") or {}
    limits = {limit_line(table.attrs.get(LIMIT)) for tables in scores.runs.values() for table in tables}
    costly = cost_line({name: cost for name, cost in costs.items() if name in {name for _, name in entries}})
    said = " ".join(sorted(filter(None, (*limits, costly))))
    grid = paper_table(values, options.intervals, options.by_network)
    return replace(grid, caption=describe(values, options.intervals, shares, said), label=options.label), values


@dataclass(frozen=True)
class PaperOptions:
    """How a table for a paper is written.

    Attributes:
        intervals: form of the 95 % intervals.
        siunitx: aligns numbers in siunitx's ``S`` columns.
        by_network: a row per detector, columns per run.
        label: LaTeX label.
        folders: folders of the runs, which know the costs of detectors.
    """

    intervals: Intervals = "none"
    siunitx: bool = False
    by_network: bool = False
    label: str = "tab:ood"
    folders: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if self.siunitx and self.intervals == "brackets":
            raise InputError("--siunitx aligns a number with its ±; write --intervals pm or none, not brackets")


def add_paper_arguments(parser: ArgumentParser) -> None:
    """Adds the options that :class:`PaperOptions` holds."""
    parser.add_argument(
        "--intervals",
        choices=["none", "pm", "brackets"],
        default="none",
        help="95 %% intervals in the table: ± the longer side, or [low, high]; † marks values inside that of the best",
    )
    parser.add_argument("--siunitx", action="store_true", help="LaTeX: align numbers in siunitx's S columns")
    parser.add_argument("--label", default="tab:ood", help="LaTeX: label of the table (default: tab:ood)")


def open_runs(arguments: Sequence[str], sets: Sequence[str] = (), full_spectrum: bool = False) -> Scores:
    """Reads the scores of runs and matches them by image.

    Args:
        arguments: ``RUN``, a folder, or ``NAME=RUNS``: repetitions, by a pattern or by giving the name again.
        sets: OOD sets to keep; all where empty.
        full_spectrum: counts covariate-shifted ID images as ID instead of leaving them out.

    Raises:
        InputError: if a run does not exist or is given twice, or the runs did not score the same images.
    """
    folders: dict[str, list[Path]] = {}
    single: list[str] = []
    for argument in arguments:
        name, given, pattern = argument.partition("=")
        if not given or Path(argument).is_dir():
            same_name = sum(Path(other).resolve().name == Path(argument).resolve().name for other in arguments) > 1
            name, found = argument if same_name else Path(argument).resolve().name, [Path(argument)]
            single.append(name)
        else:
            start = Path(Path(pattern).anchor)
            below = Path(pattern).relative_to(start)
            found = sorted(start.glob(str(below))) if below.parts else [start]
        if not found:
            raise InputError(f"{argument}: there is no folder {pattern}")
        folders.setdefault(name, []).extend(found)
    paths = [path for found in folders.values() for path in found]
    places = [path.resolve() for path in paths]
    twice = {str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1}
    if twice:
        raise InputError(f"{', '.join(sorted(twice))}: the same run is given twice")
    for name in single:
        if len(folders[name]) > 1:
            raise InputError(f"{name} is the name of a run and of repetitions, {name}=…; choose another NAME")
    tables = {str(path): read_scores(path) for path in paths}
    if full_spectrum:
        tables = {path: table.assign(role=table["role"].replace("csid", "id")) for path, table in tables.items()}
    matched = match_images({path: without_csid(table) for path, table in tables.items()}, sets)
    return Scores({name: [matched[str(path)] for path in found] for name, found in folders.items()})


def pair(entries: Sequence[Entry], baseline: str = "") -> list[tuple[Entry, Entry]]:
    """Pairs each entry with its baseline: (baseline, other).

    Args:
        entries: pairs of run and detector.
        baseline: a run (its detectors against the same detectors of the other runs), a detector (against the other
            detectors of its run), or ``RUN/DETECTOR`` (against all). Where empty: the first run, or the first detector
            if there is one run.

    Raises:
        InputError: if ``baseline`` is none of these.
    """
    runs, detectors = (list(dict.fromkeys(entry[i] for entry in entries)) for i in (0, 1))
    baseline = baseline or (runs[0] if len(runs) > 1 else detectors[0])
    run, _, detector = baseline.rpartition("/")
    if baseline in runs:
        found = [((baseline, name), (other, name)) for other, name in entries]
    elif baseline in detectors:
        found = [((of, baseline), (of, name)) for of, name in entries]
    elif (run, detector) in entries:
        found = [((run, detector), entry) for entry in entries]
    else:
        raise InputError(
            f"--baseline {baseline}: neither a run ({', '.join(runs)}), nor a detector ({', '.join(detectors)}), nor "
            "RUN/DETECTOR"
        )
    return [(first, other) for first, other in found if first in entries and first != other]


def choose(entries: Sequence[Entry], detectors: Sequence[str]) -> list[Entry]:
    """Returns the entries of these detectors; all entries where none is named.

    Raises:
        InputError: if a detector has no scores.
    """
    scored = list(dict.fromkeys(name for _, name in entries))
    unknown = [name for name in detectors if name not in scored]
    if unknown:
        raise InputError(f"--detectors: no scores of {', '.join(unknown)}; the runs have scores of {', '.join(scored)}")
    return [entry for entry in entries if not detectors or entry[1] in detectors]


def main(args: list[str]) -> None:
    """Prints a table of the runs and one of their differences, with 95 % intervals and p-values."""
    parser = OptionParser("train.py compare", description=_HELP, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or NAME=FOLDERS: repetitions of a run")
    parser.add_argument("--baseline", default="", help="a run, a detector, or RUN/DETECTOR; the first by default")
    parser.add_argument("--detectors", nargs="+", default=[], help="detectors to compare; all by default")
    parser.add_argument("--sets", nargs="+", default=[], help="OOD sets to compare on; all by default")
    parser.add_argument("--full_spectrum", action="store_true", help="count covariate-shifted ID images as ID")
    parser.add_argument("--bootstrap", action="store_true", help="test by the paired bootstrap, conservative for FPR95")
    parser.add_argument("--draws", type=int, default=2000, help="resamples of the bootstrap (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples (default: 0)")
    parser.add_argument(
        "--correct",
        choices=["none", "holm", "bh"],
        default="none",
        help="adjust the p-values for the number of comparisons: Holm, or Benjamini-Hochberg (default: none)",
    )
    parser.add_argument("--out", type=Path, help="folder for the tables as Markdown, LaTeX and CSV")
    parser.add_argument("--by_network", action="store_true", help="a row per detector, columns per run: group means")
    add_paper_arguments(parser)
    options = parser.parse_args(args)
    if options.draws < 100:
        raise InputError(f"--draws {options.draws}: an interval needs at least 100; the default is 2000")
    scores = open_runs(options.runs, options.sets, options.full_spectrum)
    entries = choose(scores.entries, options.detectors)
    compared = pair(entries, options.baseline)
    folders = [Path(name.partition("=")[2] or name) for name in options.runs]
    how = PaperOptions(options.intervals, options.siunitx, options.by_network, options.label, folders)
    table, values = table_of_runs(scores, entries, how)
    tables, frames = {"table": table}, {"table": values}
    print(table.markdown())
    if compared:
        found = differences(scores, values, compared, options.draws, options.seed, options.bootstrap, options.correct)
        tables["differences"], frames["differences"] = difference_table(found), found
        sizes = found.groupby("group")["dataset"].transform("nunique")
        print(difference_table(found[(found["dataset"] == MEAN) | (sizes == 1)]).markdown())
        print(caption(options.draws, options.bootstrap, options.correct, len(found)))
    elif len(entries) > 1:
        print("No differences: the runs share no detector. --baseline RUN/DETECTOR compares all with one detector")
    if options.out:
        for name, grid in tables.items():
            write_grid(grid, options.out, name, options.siunitx and name == "table")
            write_csv(frames[name], options.out / f"{name}.csv")
        print(f"Tables are in {options.out}")


_CORRECTED = {
    "none": "not corrected for the number of comparisons",
    "holm": "adjusted by Holm's method for {n} comparisons",
    "bh": "adjusted by Benjamini and Hochberg's method for {n} comparisons",
}


def caption(draws: int, bootstrap: bool, correct: str = "none", n: int = 0) -> str:
    """Returns the legend of the table of differences."""
    tests = "FPR95: delta method; AUROC: DeLong's paired test"
    tests = f"Paired bootstrap over images, {draws} draws" if bootstrap else tests
    return (
        f"Δ: percentage points, detector minus baseline, [95 % interval], two-sided p-value, "
        f"{_CORRECTED[correct].format(n=n)}; bold: better, p < 0.05. {tests}. Both cover the sampling of the test "
        "images alone."
    )
