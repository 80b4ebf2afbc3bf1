"""Runs points, each group in one process, and stores the result of each point in a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lightning_ood.commands.sweep.plan import Planned, together
from lightning_ood.commands.sweep.results import describe
from lightning_ood.commands.sweep.space import JOB
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.files import write_text
from lightning_ood.ops.orphans import PARENT
from lightning_ood.ops.secrets import blank
from lightning_ood.report.table import read_metrics


def read_finished(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns key -> result of the finished points of a sweep's folder, oldest first.

    A result has ``key``, ``point``, ``run`` and ``metrics``: rows of metrics.csv whose ``detector`` is the name in the
    config and whose ``fit`` is the name in the run.
    """
    results = [json.loads(path.read_text()) for path in (folder / "points").glob("*.json")]
    results.sort(key=lambda result: (result["finished"], result["order"]))
    return {result["key"]: result for result in results}


def _write_finished(folder: Path, planned: Planned, metrics: pd.DataFrame, order: int) -> None:
    rows = metrics[metrics["detector"].isin(planned.names)]
    rows = rows.assign(fit=rows["detector"], detector=rows["detector"].map(planned.names)).to_dict("records")
    result = {"key": planned.key, "point": planned.point, "run": planned.run, "finished": time.time(), "order": order}
    write_text(folder / "points" / f"{planned.key}.json", json.dumps({**result, "metrics": rows}, indent=1))


def execute(planned: Sequence[Planned], folder: Path, jobs: int = 1) -> list[str]:
    """Runs the points that are not finished, ``jobs`` runs at a time, and returns a line for each that failed."""
    finished = read_finished(folder)
    todo = {each.key: each for each in planned if each.key not in finished}
    groups = together(todo.values())
    kept = len({each.key for each in planned}) - len(todo)
    rank_zero_print(f"{len(todo)} points in {len(groups)} runs" + (f"; {kept} are finished" if kept else ""))
    failures: list[str] = []
    begun, count = time.time(), 0
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(_run, group, folder, threads): group for group in groups}
        for number, done in enumerate(as_completed(runs), start=1):
            found = done.result()
            failures += found
            count += len(runs[done])
            failed = f", {len(found)} of them failed" if found else ""
            seconds = f"{time.time() - begun:.0f} s"
            rank_zero_print(f"[run {number} of {len(groups)}] {count} of {len(todo)} points after {seconds}{failed}")
    return failures


def _run(group: list[Planned], folder: Path, threads: int) -> list[str]:
    """Runs all points of a group at once; where one breaks the run, runs the others again without it."""
    place = folder / group[0].run
    failures: list[str] = []
    while group:
        code, log = _call(group, place, threads)
        scored = (place / "metrics.csv").is_file()
        metrics = read_metrics(place) if scored else pd.DataFrame({"detector": []})
        done = [each for each in group if set(each.names) <= set(metrics["detector"])]
        for order, each in enumerate(done):
            _write_finished(folder, each, metrics, order)
        group = [each for each in group if each not in done]
        error = _last_error(log.read_text())
        guilty = [each for each in group if any(name in error for name in each.names)] or group
        why = error.splitlines()[-1].removeprefix("error: ") if error else f"it ended with code {code}"
        failures += [f"{describe(each.point)}: {_with_own_names(why, each)} ({log})" for each in guilty]
        group = [each for each in group if each not in guilty]
    return failures


def _call(group: Sequence[Planned], place: Path, threads: int) -> tuple[int, Path]:
    """Calls ``fit_test`` with all detectors of a group; returns its exit code and log."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.csv").unlink(missing_ok=True)
    shared = group[0].config
    quiet = {"logger": group[0].logger, "enable_progress_bar": False, "default_root_dir": str(place)}
    detectors = {name: spec for each in group for name, spec in each.detectors.items()}
    config = {**shared, "trainer": {**shared["trainer"], **quiet}, "scoring": {"detectors": detectors}}
    secrets = blank(config := deepcopy(config))
    file, log = place / "points.yaml", place / f"log-{len(list(place.glob('log-*.txt'))) + 1}.txt"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return start([JOB, "--config", str(file)], log, threads, secrets), log


def start(args: list[str], log: Path, threads: int, variables: Mapping[str, str] | None = None) -> int:
    """Runs the command line in a process of its own, writes its output to ``log``, and returns its exit code."""
    paths = filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")])
    defaults = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    environment = {
        **defaults,
        **os.environ,
        **(variables or {}),
        "PYTHONPATH": os.pathsep.join(paths),
        PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "lightning_ood", *args]
    with log.open("w") as out:
        return subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment).returncode


def _last_error(log: str) -> str:
    """Returns the last error message or traceback of a log; empty where it has none."""
    _, *errors = re.split(r"^(?=error: |Traceback )", log, flags=re.MULTILINE)
    return errors[-1].strip() if errors else ""


def _with_own_names(line: str, planned: Planned) -> str:
    for name, own in planned.names.items():
        line = line.replace(name, own)
    return line
