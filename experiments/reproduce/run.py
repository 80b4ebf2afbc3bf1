"""Published tables beside what this package computes, as far as the data and weights at hand allow.

python experiments/reproduce/run.py                        # all tables
python experiments/reproduce/run.py dice_cifar10 --root …  # some (those of tables/), data elsewhere
python experiments/reproduce/run.py --list                 # only what is here and what is not
python experiments/reproduce/run.py -- --trainer.devices 4 --trainer.strategy ddp   # the rest goes to train.py

All rows of all tables on one network and one benchmark are computed in one run. Prints the table, and writes it to
reproduction.md and reproduction.csv in --folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import yaml  # noqa: E402

from experiments.reproduce import published  # noqa: E402
from experiments.reproduce.compare import compare, markdown  # noqa: E402
from experiments.reproduce.published import HERE, Table, lacking, merged, sets_of  # noqa: E402
from lightning_ood.commands.merging import ALL  # noqa: E402
from lightning_ood.data.datamodule import data_root  # noqa: E402
from lightning_ood.errors import InputError  # noqa: E402
from lightning_ood.report.table import FULL_SPECTRUM  # noqa: E402


class Plan(NamedTuple):
    """The run that serves a table.

    Attributes:
        files: its configs.
        differs: what differs from the paper's, in words.
        columns: published column that can be computed -> the sets that it takes.
        missing: what is not here -> why.
        refused: why there is no run; empty where there is one.
    """

    files: tuple[str, ...]
    differs: str
    columns: dict[str, list[str]]
    missing: dict[str, str]
    refused: str


def plan(table: Table, root: Path, download: bool) -> Plan:
    """The config with which most columns can be computed; the paper's own where several serve alike."""
    plans = [_plan(table, files, differs, root, download) for files, differs in table.configs]
    if not plans:
        return Plan((), "", {}, {}, table.about["network"])
    best = max(plans, key=lambda each: 0 if each.refused else len(each.columns))
    return best._replace(missing=plans[0].missing | best.missing)  # why a set is not here, where the best has none


def _plan(table: Table, files: tuple[str, ...], differs: str, root: Path, download: bool) -> Plan:
    needed, gone = lacking(files, root, download)
    here = set(sets_of(merged(files)["data"])) - set(gone)
    columns = {column: [name for name in names if name in here][:1] for column, names in table.columns.items()}
    columns |= {column: sets if set(sets) <= here else [] for column, sets in table.means.items()}
    usable = {column: sets for column, sets in columns.items() if sets}
    why = needed or ({} if usable else {name: text for name, text in gone.items()})
    return Plan(files, differs, usable, {**needed, **gone}, "; ".join(f"{key}: {text}" for key, text in why.items()))


def name_of(files: tuple[str, ...]) -> str:
    """Of the run's folder."""
    return "-".join(Path(file).stem for file in files)


def compute(files: tuple[str, ...], plans: dict[Table, Plan], folder: Path, root: Path, more: list[str]) -> str:
    """One fit and one test for all tables that these configs serve; what went wrong, empty where nothing did."""
    rows = [(row, each.columns) for table, each in plans.items() for row in table.rows if row.detector]
    detectors = {row.detector: row.spec for row, columns in rows if any(row.cells[column] for column in columns)}
    names = {
        name.removeprefix(FULL_SPECTRUM) for each in plans.values() for sets in each.columns.values() for name in sets
    }
    ood = {key: spec for key, spec in merged(files)["data"]["ood"].items() if key.split("/")[1] in names}
    config = {"data": {"ood": {ALL: None, **ood}}, "scoring": {"detectors": {ALL: None, **detectors}}}
    run = folder / name_of(files)
    run.mkdir(parents=True, exist_ok=True)
    (run / "reproduce.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    paths = [*(ROOT / file for file in files), run / "reproduce.yaml"]
    configs = [part for path in paths for part in ("--config", path)]
    where = ["--data.root", root, "--trainer.default_root_dir", run, *more]
    for job in ("fit", "test"):
        command = [sys.executable, ROOT / "train.py", job, *configs, *where]
        if subprocess.run([str(part) for part in command], check=False).returncode:
            return f"`train.py {job}` failed; what it said is above"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {path.stem: path for path in sorted((HERE / "tables").glob("*.yaml"))}
    names = f"some of {', '.join(every)}, or files like theirs; all by default"
    parser.add_argument("tables", nargs="*", metavar="table", help=names)
    parser.add_argument("--root", default=None, help="of the data; LIGHTNING_OOD_DATA or `data` by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/reproduce"), help="of the runs and the result")
    parser.add_argument("--list", action="store_true", help="only say what is here and what is not")
    parser.add_argument("--download", action="store_true", help="let torchvision download the sets that it can")
    given = sys.argv[1:] if arguments is None else arguments
    at = given.index("--") if "--" in given else len(given)
    options, more = parser.parse_args(given[:at]), given[at + 1 :]
    every |= {name: Path(name) for name in options.tables if Path(name).is_file()}
    if unknown := [name for name in options.tables if name not in every]:
        raise InputError(f"no table {', '.join(unknown)}; there are {', '.join(every)}")
    root = data_root(options.root)
    plans = {}
    for name in options.tables or every:
        table = published.read(every[name])
        plans[table] = plan(table, root, options.download)
    if options.list:
        print("\n".join(_at_hand(table, each) for table, each in plans.items()))
        return 0
    failed = {}
    for files in sorted({each.files for each in plans.values() if not each.refused}):
        mine = {table: each for table, each in plans.items() if each.files == files and not each.refused}
        failed[files] = compute(files, mine, options.folder, root, more)
    _publish(plans, failed, options.folder)
    return 1 if any(failed.values()) else 0


def _at_hand(table: Table, each: Plan) -> str:
    can = ", ".join(each.columns)
    return f"{table.name}: " + (f"not here: {each.refused}" if each.refused else f"{can} by {name_of(each.files)}")


def _publish(plans: dict[Table, Plan], failed: dict[tuple[str, ...], str], folder: Path) -> None:
    """Prints and writes the comparison: what was computed, then in a line each the tables that could not be."""
    cells, pages = [], []
    gone: dict[str, list[str]] = {}  # why -> tables
    for table, each in plans.items():
        reason = each.refused or failed[each.files]
        metrics = None if reason else pd.read_csv(folder / name_of(each.files) / "metrics.csv")
        found = compare(table, metrics, each.missing, reason)
        cells.append(found)
        if reason:
            gone.setdefault(reason, []).append(f"`{table.name}`")
        else:
            pages.append(markdown(table, found, each.files, each.differs))
    if gone:
        pages.append("\n".join(["## Not here", "", *(f"- {', '.join(names)}: {why}" for why, names in gone.items())]))
    text = "\n\n".join(pages)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(cells).to_csv(folder / "reproduction.csv", index=False, float_format="%.6g")
    (folder / "reproduction.md").write_text(text + "\n")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
