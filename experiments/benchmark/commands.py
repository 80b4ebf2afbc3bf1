"""Whole commands, fit and test, beside a plain loop over the same images: time and peak memory, as ratios.

PYTHONPATH=. python experiments/benchmark/commands.py [--repeat 2] [--suite configs/suites/all.yaml] [--out DIR]
PYTHONPATH=.:/tmp/pytorch_ood python experiments/benchmark/commands.py --parts kept ours peer

Parts: ``user``, a plain loop (two passes over the fitting images, for the jigsaw, and one over the test images);
``kept``, the same with the commands' allocator settings; ``ours``, `train.py fit` and `train.py test`; ``once``,
`train.py fit_test`; ``last``, the same with `--model.reading.channels_last true`; ``peer``, pytorch-ood's
Benchmark.evaluate. Each is a process, parts alternate, and DIR/commands.json is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lightning_ood.data.root import data_root

ROOT = Path(__file__).parents[2]
KEYS = ("cpu", "system", "wall", "peak_mb")
LAST = ("--model.reading.channels_last", "true")
OURS: dict[str, Any] = {"ours": (("fit", "test"),), "once": (("fit_test",),), "last": (("fit_test",), LAST)}


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Runs a command; seconds of CPU (all its processes; of it in the kernel), of the wall, and its peak memory.

    Raises:
        SystemExit: if it fails.
    """
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed, see {log}")
    values = (used.ru_utime + used.ru_stime, used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024)
    return dict(zip(KEYS, values, strict=True))


def joined(jobs: list[dict[str, float]]) -> dict[str, float]:
    """Times add up; the peak is the larger one."""
    return {key: max(j[key] for j in jobs) if key == "peak_mb" else sum(j[key] for j in jobs) for key in KEYS}


class Bench:
    """The commands of each part.

    Args:
        given: the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.root = given, data_root(given.root).resolve()
        config = yaml.safe_load(given.config.read_text())
        self.model, self.data = config["model"], config["data"]
        self.out = given.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)

    def part(self, name: str) -> dict[str, Any]:
        """Measures a part once."""
        if name in OURS:
            return self._ours(*OURS[name])
        flags = {"user": [], "kept": ["--keep_memory"], "peer": ["--keep_memory", "--pytorch_ood"]}[name]
        sets = [self.data["id"]["test"], *self.data["ood"].values()]
        plain = [sys.executable, str(Path(__file__).parent / "plain.py"), "--root", str(self.root), *flags]
        plain += ["--network", self.model["name"], "--weights", self.model["weights"], "--test", *sets]
        plain += ["--fit", self.data["id"]["train"], "--batch", str(self.data["batch_size"])]
        log = self.out / f"{name}.log"
        found: dict[str, Any] = measure(plain, log)
        return found | json.loads(log.read_text().splitlines()[-1])

    def _ours(self, commands: tuple[str, ...], options: tuple[str, ...] = ()) -> dict[str, Any]:
        """Fit and test from an empty folder."""
        folder = self.out / "run"
        shutil.rmtree(folder, ignore_errors=True)
        configs = [part for path in (self.given.config, *self.given.suite) for part in ("--config", str(path))]
        jobs = {}
        for job in commands:
            command = [sys.executable, str(ROOT / "train.py"), job, *configs, "--data.root", str(self.root), *options]
            command += ["--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false"]
            jobs[job] = measure(command, self.out / f"{job}.log")
        return {**joined(list(jobs.values())), **jobs}


def ratios(done: list[dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Medians over the repetitions of our parts to each other part of the same repetition."""
    pairs = [(a, b) for a in done[0] if a in OURS for b in done[0] if b not in OURS]
    keys = [key for key in KEYS if key != "system"]
    found = {f"{key} of {a} to {b}": [r[a][key] / r[b][key] for r in done] for a, b in pairs for key in keys}
    return {name: round(statistics.median(each), 3) for name, each in found.items()}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "imagenet_lite0.yaml")
    parser.add_argument("--suite", type=Path, nargs="*", default=[ROOT / "configs" / "suites" / "imagenet.yaml"])
    parser.add_argument("--root", default=None, help="of the data; LIGHTNING_OOD_DATA or `data` by default")
    parser.add_argument("--parts", nargs="+", default=["kept", "ours", "user"], choices=["user", "kept", "peer", *OURS])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    bench, done = Bench(given), []
    for _ in range(given.repeat):
        found: dict[str, dict[str, Any]] = {}
        done.append(found)
        for name in given.parts:
            found[name] = bench.part(name)
            print(name, json.dumps(found[name]), flush=True)
            whole = [each for each in done if len(each) == len(given.parts)]
            told = {"repetitions": done, "ratios": ratios(whole) if whole else {}}
            (bench.out / "commands.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["ratios"], indent=1))


if __name__ == "__main__":
    main()
