"""Runs the points of a sweep, each set of points that share a network pass in one process, and keeps what they gave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lightning_ood.commands.sweep.plan import Planned, together
from lightning_ood.commands.sweep.space import JOB, Point
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.files import write_text


@dataclass(frozen=True)
class Failure:
    """A point that gave no numbers.

    Attributes:
        point: its parameters.
        why: one line.
        log: all that the run said, where it was started.
    """

    point: Point
    why: str
    log: Path | None = None


class Results:
    """The finished points of a sweep: a JSON file each, there when the point's numbers are whole.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "points"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, planned: Planned) -> bool:
        return self._path(planned.key).is_file()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The finished points, oldest first: ``key``, ``point``, ``run``, ``metrics`` (rows of metrics.csv)."""
        found = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
        return iter(sorted(found, key=lambda result: (result["finished"], result["order"])))

    def read(self, planned: Planned) -> dict[str, Any]:
        """What a point gave."""
        return json.loads(self._path(planned.key).read_text())

    def write(self, planned: Planned, metrics: pd.DataFrame, order: int = 0) -> None:
        """Keeps a point's rows of metrics.csv under the detectors' own names."""
        rows = metrics[metrics["detector"].isin(planned.names)]
        rows = rows.assign(fit=rows["detector"], detector=rows["detector"].map(planned.names))
        content = {"key": planned.key, "point": planned.point, "run": planned.run, "finished": time.time()}
        text = json.dumps({**content, "order": order, "metrics": rows.to_dict("records")}, indent=1)
        write_text(self._path(planned.key), text)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def execute(planned: Sequence[Planned], folder: Path, jobs: int = 1) -> list[Failure]:
    """Runs the points that are not finished.

    Args:
        planned: the points.
        folder: of the sweep.
        jobs: runs at a time.

    Returns:
        the points that failed; the others are in :class:`Results`.
    """
    results = Results(folder)
    todo = {each.key: each for each in planned if each not in results}
    groups = together(todo.values())
    kept = len({each.key for each in planned}) - len(todo)
    rank_zero_print(f"{len(todo)} points in {len(groups)} runs" + (f"; {kept} are finished" if kept else ""))
    failures: list[Failure] = []
    begun, count = time.time(), 0
    with ThreadPoolExecutor(jobs) as pool:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        runs = {pool.submit(_run, group, folder, results, threads): group for group in groups}
        for number, done in enumerate(as_completed(runs), start=1):
            found = done.result()
            failures += found
            count += len(runs[done])
            failed = f", {len(found)} of them failed" if found else ""
            took = f"{time.time() - begun:.0f} s"
            rank_zero_print(f"[run {number} of {len(groups)}] {count} of {len(todo)} points after {took}{failed}")
    return failures


def _run(group: list[Planned], folder: Path, results: Results, threads: int) -> list[Failure]:
    """One run of all its points; what a point breaks is run again without that point."""
    place = folder / group[0].run
    failures: list[Failure] = []
    while group:
        (place / "metrics.csv").unlink(missing_ok=True)
        code, said, log = _call(group, place, threads)
        metrics = pd.read_csv(place / "metrics.csv") if (place / "metrics.csv").is_file() else pd.DataFrame()
        scored = set(metrics.get("detector", ()))
        for order, each in enumerate(group):
            if scored.issuperset(each.names):
                results.write(each, metrics, order)
        group = [each for each in group if each not in results]
        why, last = _error(said), code
        guilty = [each for each in group if any(name in why for name in each.names)] or group
        line = why.strip().splitlines()[-1] if why.strip() else f"it ended with code {last}"
        failures += [Failure(each.point, _own_names(line, each), log) for each in guilty]
        group = [each for each in group if each not in guilty]
    return failures


def _call(group: Iterable[Planned], place: Path, threads: int) -> tuple[int, str, Path]:
    """``fit_test`` on a config of all detectors of the group; exit code, what it said, and where that is kept."""
    place.mkdir(parents=True, exist_ok=True)
    first = next(iter(group))
    detectors = {name: spec for each in group for name, spec in each.detectors.items()}
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": str(place)}
    config = {**first.config, "trainer": {**first.config["trainer"], **quiet}, "scoring": {"detectors": detectors}}
    file = place / "points.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    log = place / f"log-{len(list(place.glob('log-*.txt'))) + 1}.txt"
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    defaults = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    environment = {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "lightning_ood", JOB, "--config", str(file)]
    with log.open("w") as out:
        code = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment).returncode
    return code, log.read_text(), log


def _error(said: str) -> str:
    """The last error message or traceback."""
    starts = [match.start() for match in re.finditer(r"^(error: |Traceback )", said, re.MULTILINE)]
    return said[starts[-1] :] if starts else ""


def _own_names(line: str, planned: Planned) -> str:
    for name, own in planned.names.items():
        line = line.replace(name, own)
    return line.removeprefix("error: ")
