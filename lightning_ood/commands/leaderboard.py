"""``python train.py leaderboard RUN…``: writes a page that ranks the detectors of runs on the same images."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from lightning_ood.commands.options import OptionParser
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_text
from lightning_ood.report.boards import Entry, differences, group_entries, read_entry, read_published
from lightning_ood.report.leaderboard import render_leaderboard

_HELP = """\
Writes OUT/index.html, one page without other files: detectors of all runs by sets, with 95 % intervals, the hashes of
image lists and weights, command and revision. Of each run's folder it reads metrics.csv, doubts.csv and
provenance.json; a copy of these three is enough. Runs on different images have separate tables.

  leaderboard runs/resnet runs/vit --out site
  leaderboard ours=runs/a theirs=/shared/b --published values.csv --out site
"""


def main(args: list[str]) -> None:
    """Writes a page that ranks the detectors of runs; the ones on different images in separate tables."""
    parser = OptionParser("train.py leaderboard", description=_HELP, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument(
        "--published",
        type=Path,
        help="CSV of published values, marked and not ranked: id, network, method, sets (A+B: their mean), source, "
        "and columns of metrics.csv",
    )
    parser.add_argument("--title", default="Out-of-distribution detection: leaderboard", help="title of the page")
    options = parser.parse_args(args)
    entries = open_entries(options.runs)
    published = read_published(options.published) if options.published else []
    path = write_text(options.out / "index.html", render_leaderboard(entries, published, options.title))
    for board in group_entries(entries):
        sets = ", ".join(f"{x['dataset']} {x['images']}" for x in board[0].lists)
        print(f"{sets}: {', '.join(entry.name for entry in board)}")
    if said := differences(entries):
        print(f"Runs on different images are in separate tables: {'; '.join(said)}")
    print(f"The page is {path}")


def open_entries(arguments: Sequence[str]) -> list[Entry]:
    """Reads the runs.

    Args:
        arguments: ``FOLDER``, whose name is the run's, or ``NAME=FOLDER``.

    Raises:
        InputError: if two runs have one name, or a file of a run is missing or wrong.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, given, place = argument.partition("=")
        if not given or Path(argument).is_dir():
            name, place = Path(argument).resolve().name, argument
        if name in folders:
            raise InputError(f"{argument}: there is a run {name} already; write another name, NAME={place}")
        folders[name] = Path(place)
    missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise InputError(f"{', '.join(missing)}: there is no such folder; give the folder of a run, such as runs/my")
    return [read_entry(name, folder) for name, folder in folders.items()]
