"""``sweep FILE``: every point of a W&B sweep file here, without an account."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.commands.sweep.choice import Choice
from lightning_ood.commands.sweep.plan import Planned, plan
from lightning_ood.commands.sweep.point import Resolver
from lightning_ood.commands.sweep.report import describe, long_table, write
from lightning_ood.commands.sweep.runs import Failure, Results, execute
from lightning_ood.commands.sweep.space import Sweep, read
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report import scalars


def main(args: list[str]) -> None:
    """``sweep FILE``: runs the points of a W&B sweep file here; points that are finished are not repeated."""
    parser = ArgumentParser(prog="train.py sweep", description=main.__doc__)
    parser.add_argument("file", type=Path, help="the sweep file; `wandb sweep FILE` reads it too")
    parser.add_argument("--folder", type=Path, help="of the runs; runs/sweeps/<name> by default")
    parser.add_argument("--results", type=Path, help="where table and picture go; the folder of the runs by default")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--count", type=int, help="points of a random or Bayes sweep, finished ones included; run_cap")
    parser.add_argument(
        "--batch", type=int, default=8, help="points that Bayes proposes at a time (one run, where it can)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a random or Bayes sweep")
    options = parser.parse_args(args)
    sweep = read(options.file)
    where = options.file.resolve()
    folder = options.folder or Path("runs") / "sweeps" / f"{where.parent.name}-{where.stem}"
    if options.jobs < 1 or options.batch < 1:
        raise InputError(f"--jobs {options.jobs} --batch {options.batch}: at least 1 each")
    if sweep.method == "grid":
        planned, failures = _grid(sweep, folder, options.jobs)
    else:
        count = options.count or sweep.cap
        if not count:
            raise InputError(f"method: {sweep.method} has no end: give --count N, or run_cap in {options.file}")
        batch = count if sweep.method == "random" else options.batch
        planned, failures = _search(sweep, folder, options.jobs, count, batch, options.seed)
    _finish(sweep, folder, options.results or folder, planned)
    for failure in failures:
        rank_zero_print(
            f"failed: {describe(failure.point)}: {failure.why}" + (f" ({failure.log})" if failure.log else "")
        )
    if failures:
        raise SystemExit(1)


def _grid(sweep: Sweep, folder: Path, jobs: int) -> tuple[list[Planned], list[Failure]]:
    planned, refused = plan(sweep, sweep.grid(), Resolver())
    return planned, [Failure(*each) for each in refused] + execute(planned, folder, jobs)


def _search(
    sweep: Sweep, folder: Path, jobs: int, count: int, batch: int, seed: int
) -> tuple[list[Planned], list[Failure]]:
    """Random or Bayes: goes on from the finished points that this file would give again."""
    resolver, results = Resolver(), Results(folder)
    old = {result["key"]: result for result in results if set(result["point"]) == set(sweep.space)}
    again, _ = plan(sweep, [result["point"] for result in old.values()], resolver)
    planned = [each for each in again if each.key in old][:count]
    choice = Choice(sweep, [(each.point, _value(sweep, old[each.key])) for each in planned], seed)
    failures: list[Failure] = []
    while len(planned) + len(failures) < count:
        points = choice.ask(min(batch, count - len(planned) - len(failures)))
        new, refused = plan(sweep, points, resolver)
        failures += [Failure(*each) for each in refused] + execute(new, folder, jobs)
        values = {id(each.point): _value(sweep, results.read(each)) for each in new if each in results}
        planned += [each for each in new if each in results]
        for point in points:
            choice.tell(point, values.get(id(point)))
    return planned, failures


def _value(sweep: Sweep, result: dict[str, Any]) -> float | None:
    """The metric of a finished point.

    Raises:
        InputError: if the run has no such number.
    """
    if sweep.metric is None:
        return None
    known = scalars(pd.DataFrame(result["metrics"]))
    if sweep.metric not in known:
        raise InputError(f"{sweep.path}: metric.name {sweep.metric!r}: a point has {', '.join(sorted(known))}")
    return known[sweep.metric]


def _finish(sweep: Sweep, folder: Path, out: Path, planned: list[Planned]) -> None:
    """Table, picture, and the best point where the file names a metric."""
    results = Results(folder)
    finished = [{**results.read(each), "point": each.point} for each in planned if each in results]
    if not finished:
        return
    rank_zero_print(write(long_table(finished), out, sweep.path.stem, lines=sweep.method == "grid"))
    values = [value for value in (_value(sweep, result) for result in finished) if value is not None]
    if values:
        best = values.index(max(values) if sweep.maximise else min(values))
        rank_zero_print(f"Best {sweep.metric}: {values[best]:.2f} with {describe(finished[best]['point'])}")
    rank_zero_print(f"Table and picture are in {out}, the runs in {folder}")
