"""``sweep FILE``: runs the points of a sweep file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from lightning_ood.commands.sweep.plan import Planned, plan
from lightning_ood.commands.sweep.point import Resolver
from lightning_ood.commands.sweep.results import describe, long_table, write
from lightning_ood.commands.sweep.runs import execute, read_finished
from lightning_ood.commands.sweep.space import Point, Sweep, read
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.report import scalars


def run(options: Namespace) -> None:
    """Runs the points of the sweep file ``options.file``; see :func:`lightning_ood.commands.sweep.main`."""
    sweep = read(options.file)
    path = options.file.resolve()
    folder = options.folder or Path("runs") / "sweeps" / f"{path.parent.name}-{path.stem}"
    if options.jobs < 1 or options.batch < 1:
        raise InputError(f"--jobs {options.jobs} --batch {options.batch}: write at least 1 for each")
    if sweep.method == "grid":
        planned, failures = _run(sweep, sweep.grid(), Resolver(), folder, options.jobs)
    else:
        planned, failures = _search(sweep, folder, options)
    _finish(sweep, folder, options.results or folder, planned)
    for failure in failures:
        rank_zero_print(f"failed: {failure}")
    if failures:
        raise SystemExit(1)


def _run(
    sweep: Sweep, points: Sequence[Point], resolver: Resolver, folder: Path, jobs: int
) -> tuple[list[Planned], list[str]]:
    planned, refused = plan(sweep, points, resolver)
    return planned, refused + execute(planned, folder, jobs)


def _search(sweep: Sweep, folder: Path, options: Namespace) -> tuple[list[Planned], list[str]]:
    """Runs a random or Bayes sweep, continuing from the finished points that the sweep file still leads to."""
    count = options.count or sweep.cap
    if not count:
        raise InputError(f"method: {sweep.method} has no end; write --count N, or run_cap in {options.file}")
    resolver, old = Resolver(), read_finished(folder)
    points = [result["point"] for result in old.values() if set(result["point"]) == set(sweep.space)]
    planned = [each for each in plan(sweep, points, resolver)[0] if each.key in old][:count]
    study = study_of(sweep, [(each.point, metric_of(sweep, old[each.key])) for each in planned], options.seed)
    failures: list[str] = []
    while (left := count - len(planned) - len(failures)) > 0:
        trials = [study.ask(sweep.space) for _ in range(left if sweep.method == "random" else min(options.batch, left))]
        new, failed = _run(sweep, [trial.params for trial in trials], resolver, folder, options.jobs)
        failures += failed
        finished = read_finished(folder)
        planned += [each for each in new if each.key in finished]
        for trial in trials:
            keys = [each.key for each in new if each.point == trial.params and each.key in finished]
            value = metric_of(sweep, finished[keys[0]]) if keys else None
            study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    return planned, failures


def study_of(sweep: Sweep, finished: Sequence[tuple[Point, float | None]], seed: int = 0) -> optuna.Study:
    """Returns an Optuna study with the finished points of the space and their values of the metric."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed += len(finished)  # a continued sweep must not propose the finished points again
    sampler = (
        optuna.samplers.RandomSampler(seed)
        if sweep.method == "random"
        else optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    )
    study = optuna.create_study(direction="maximize" if sweep.maximise else "minimize", sampler=sampler)
    for point, value in finished:
        if value is not None:
            try:
                study.add_trial(create_trial(params=point, distributions=sweep.space, value=value))
            except ValueError:  # the point is outside the space
                continue
    return study


def metric_of(sweep: Sweep, result: Mapping[str, Any]) -> float | None:
    """Returns the metric of a finished point; None where the sweep has none.

    Raises:
        InputError: if the point has no such metric.
    """
    if sweep.metric is None:
        return None
    values = scalars(pd.DataFrame(result["metrics"]))
    if sweep.metric not in values:
        raise InputError(f"{sweep.path}: metric.name {sweep.metric!r}: write one of {', '.join(sorted(values))}")
    return values[sweep.metric]


def _finish(sweep: Sweep, folder: Path, out: Path, planned: list[Planned]) -> None:
    """Writes and prints the table, draws the picture, and prints the best point where the file names a metric."""
    finished = read_finished(folder)
    results = [{**finished[each.key], "point": each.point} for each in planned if each.key in finished]
    if not results:
        return
    rank_zero_print(write(long_table(results), out, sweep.path.stem, lines=sweep.method == "grid"))
    values = [value for result in results if (value := metric_of(sweep, result)) is not None]
    if values:
        best = values.index(max(values) if sweep.maximise else min(values))
        rank_zero_print(f"Best {sweep.metric}: {values[best]:.2f} with {describe(results[best]['point'])}")
    rank_zero_print(f"Table and picture are in {out}, the runs in {folder}")
