"""``python train.py report RUN``: rewrites table, intervals and pictures of a run from its scores.parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from lightning_ood.commands.compare import PaperOptions, add_paper_arguments, choose, open_runs, table_of_runs
from lightning_ood.commands.options import OptionParser
from lightning_ood.data.root import data_root
from lightning_ood.errors import InputError
from lightning_ood.ops.files import read_text
from lightning_ood.ops.plain_yaml import read_yaml
from lightning_ood.report import RunResults, read_scores, reader
from lightning_ood.report.paper import write_grid
from lightning_ood.report.publish import publish
from lightning_ood.report.table import detectors_of


def main(args: list[str]) -> None:
    """Rewrites table, intervals and pictures of a run from its scores.parquet; the network is not run."""
    parser = OptionParser(prog="train.py report", description=main.__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--detectors", nargs="+", default=[], help="detectors to show; all by default")
    help_of_aupr = "trapezoid: adds AUPR by trapezoids, as OpenOOD computes it, to metrics.csv"
    parser.add_argument("--aupr", choices=["trapezoid"], help=help_of_aupr)
    parser.add_argument("--latex", action="store_true", help="also write report/table.tex and report/table.md")
    add_paper_arguments(parser)
    options = parser.parse_args(args)
    how = PaperOptions(options.intervals, options.siunitx, label=options.label, folders=[options.run])
    rewrite(options.run, options.detectors, trapezoid=options.aupr == "trapezoid")
    if options.latex:
        scores = open_runs([str(options.run)])
        table, _ = table_of_runs(scores, choose(scores.entries, options.detectors), how)
        write_grid(table, options.run / "report", "table", options.siunitx)
        print(f"{table.latex(options.siunitx)}\nThe table is in {options.run / 'report'}, as LaTeX and Markdown")


def rewrite(run: Path, detectors: Iterable[str] = (), trapezoid: bool = False) -> pd.DataFrame:
    """Rewrites table, intervals and pictures of a run from its scores.parquet.

    Args:
        run: its folder.
        detectors: detectors to show; all where empty.
        trapezoid: adds AUPR by trapezoids to metrics.csv.

    Returns:
        metrics.csv as a table.

    Raises:
        InputError: if the folder holds no scores, or none of a detector that is named.
    """
    table = read_scores(run)
    held = detectors_of(table)
    wanted = list(detectors) or held
    unknown = [name for name in wanted if name not in held]
    if unknown:
        raise InputError(f"{run} has no scores of {', '.join(unknown)}; it has {', '.join(held)}")
    hidden = [name for name in held if name not in wanted]
    config, root = _config(run / "config.test.yaml")
    shown = table.drop(columns=hidden)
    results = RunResults.load(run, shown, config=config, read=reader(data_root(root)), trapezoid=trapezoid)
    return publish(results, run)


def _config(path: Path) -> tuple[str, str | None]:
    """Returns the config of a test as text, and the ``data.root`` in it; imports nothing that it names."""
    if not path.is_file():
        return "", None
    advice = "delete it; the report goes on without it"
    text = read_text(path, advice)
    root = read_yaml(text, path, advice)
    for key in ("data", "root"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return text, root if isinstance(root, str) else None
