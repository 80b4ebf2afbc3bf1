"""What every trial shares: an undisturbed run to compare with, forked commands, and the verdict on what they did."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from tests.helpers.commands import Commands
from tests.helpers.runs import DETECTORS, ROOT, images

VERDICTS = ("clear", "right", "wrong", "lost", "hung", "traceback", "executed", "orphans")
LIMIT = 120.0  # seconds of a command, after which it counts as hung
WITHIN = 5.0  # seconds for the processes of a run to end after the first one has
EXECUTED = "EXECUTED"  # file that hostile content would make


@dataclass
class Done:
    """How a command ended: exit code, output, whether it had to be ended, and processes that it left behind."""

    code: int
    said: str
    hung: bool = False
    left: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """One trial: its row of the table, what it does in words, and the function that plays it and returns a verdict."""

    kind: str
    name: str
    play: Callable[[Bench, random.Random], str]


class Bench:
    """A folder with the files of the undisturbed runs, in which one trial is played.

    Attributes:
        folder: of the trial; ``runs/plain`` has a frozen network, ``runs/trained`` one that ``fit`` trains.
        base: folder of the undisturbed runs, which a trial may not change.
        said: output of the last command.
    """

    def __init__(self, commands: Commands, base: Path, folder: Path) -> None:
        self.commands, self.base, self.folder, self.said = commands, base, folder, ""
        for name in ("plain.yaml", "trained.yaml", "runs", "cache", "exported"):
            if (source := base / name).is_dir():
                shutil.copytree(source, folder / name)
            elif source.is_file():
                shutil.copy2(source, folder / name)

    def run(
        self,
        *arguments: object,
        kill: float | None = None,
        victim: Callable[[list[int]], int | None] | None = None,
        **environment: str,
    ) -> Done:
        """Runs ``train.py ARGUMENTS``; sends SIGKILL after ``kill`` seconds to the process that ``victim`` chooses."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("LIGHTNING_OOD_DATA", "WANDB_API_KEY")}
        values = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
        watches: list[Watch] = []

        def watch(child: int) -> None:
            watches.append(Watch(child, kill, victim))
            watches[0].start()

        try:
            words = [str(word) for word in arguments]
            done = self.commands.run(words, self.folder, {**inherited, **values, **environment}, LIMIT, watch)
            result = Done(done.returncode, done.stdout + done.stderr)
        except subprocess.TimeoutExpired as error:
            result = Done(-1, f"{error.output}{error.stderr}", hung=True)
        watches[0].join()
        result.left, self.said = watches[0].left, result.said
        return result

    def same(self, name: str = "plain") -> bool:
        """Returns True if the table and the scores of a run are those of the undisturbed one, bit for bit."""
        run, base = self.folder / "runs" / name, self.base / "runs" / name
        try:
            if (run / "metrics.csv").read_bytes() != (base / "metrics.csv").read_bytes():
                return False
            return pd.read_parquet(run / "scores.parquet").equals(pd.read_parquet(base / "scores.parquet"))
        except (OSError, ValueError):
            return False

    def whole(self, name: str = "plain") -> bool:
        """Returns True if a run has a table without a missing number, as after an accepted change of the config."""
        try:
            return bool(len(table := pd.read_csv(self.folder / "runs" / name / "metrics.csv"))) and bool(
                np.isfinite(table.select_dtypes("number")).all(axis=None)
            )
        except (OSError, ValueError):
            return False

    def judge(self, done: Done, right: Callable[[], bool]) -> str:
        """Returns the verdict on one command; ``right`` looks at what a finished one has left."""
        if any(self.folder.rglob(EXECUTED)):
            return "executed"
        if done.hung:
            return "hung"
        if done.left:
            return "orphans"
        if "Traceback (most recent call last)" in done.said:
            return "traceback"
        if done.code == 0:
            return "right" if right() else "wrong"
        return "clear" if done.code in (1, 2) and ("error" in done.said or "✗" in done.said) else "traceback"

    def recover(self, name: str = "plain", *arguments: object) -> str:
        """Runs fit and test without a fault: "right" where the table is the undisturbed one."""
        for command in ("fit", "test"):
            done = self.run(command, "--config", f"{name}.yaml", *arguments)
            if done.hung or done.code:
                return "hung" if done.hung else "lost"
        return "right" if self.same(name) else "wrong"


class Watch(threading.Thread):
    """Kills a process of a command at a time, and counts those that are left 5 seconds after the first has ended."""

    def __init__(self, child: int, kill: float | None, victim: Callable[[list[int]], int | None] | None) -> None:
        super().__init__(daemon=True)
        self.child, self.kill_after, self.victim = child, kill, victim
        self.left: list[int] = []

    def run(self) -> None:
        began = time.monotonic()
        ended: float | None = None
        while time.monotonic() - began < LIMIT + 10:
            found = session(self.child)
            if not found:
                return
            if self.kill_after is not None and time.monotonic() - began >= self.kill_after:
                chosen = self.victim(found) if self.victim else self.child
                if chosen is not None:
                    self.kill_after = None
                    end(chosen)
            if self.child not in found:
                ended = ended or time.monotonic()
                if time.monotonic() - ended > WITHIN:
                    self.left = found
                    break
            time.sleep(0.05)
        for process in session(self.child):
            end(process)


def end(process: int) -> None:
    """Sends SIGKILL to a process of a trial, which may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """Returns the living processes of the session that a forked command leads, or is going to lead."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if leader in (int(fields[3]), int(path.name)) and fields[0] not in "ZX":
                found.append(int(path.name))
    return found


def make_base(folder: Path, commands: Commands, names: Sequence[str] = ("plain", "trained")) -> None:
    """Makes the undisturbed runs in a folder; where both are named, also a feature cache and an exported detector."""
    rng = np.random.default_rng(0)
    (folder / "data" / "far").mkdir(parents=True)
    for i in range(6):
        pixels = rng.integers(120, 255, (14, 13, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "data" / "far" / f"{i}.png")
    for name in ("plain", "trained"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config(folder, name), sort_keys=False))
    bench = Bench(commands, folder / "nothing", folder)

    def run(*arguments: str) -> str:
        done = bench.run(*arguments)
        assert done.code == 0, done.said
        return done.said

    for name in names:
        for command in ("fit", "test"):
            run(command, "--config", f"{name}.yaml")
    if len(names) == 2:
        run("export", "--config", "plain.yaml", "--output", "exported", "--calibration_share", "0.9")
        run("test", "--config", "plain.yaml", "--model.reading.cache", "cache")
        predict = ["predict", "--detector", "exported", "--trust_code", str(folder / "data" / "far")]
        for words in (["compare", "runs/plain", "runs/trained"], predict):
            (folder / f"{words[0]}.txt").write_text(run(*words))


def config(folder: Path, name: str) -> dict[str, Any]:
    """Returns the config of a run that takes a second; that of ``trained`` trains its network for two epochs."""
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    return {
        "seed_everything": 0,
        "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"}
        | ({"finetune": "all", "training": {"optimizer": optimizer}} if name == "trained" else {}),
        "data": {
            "root": str(folder / "data"),
            "id": {"name": "tints", "train": images(61), "test": images(23, seed=1)},
            "ood": {"near/pale": images(17, shift=40, seed=2), "far/files": "far"},
            "batch_size": 8,
        },
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 2},
        "scoring": {
            "detectors": {each: str(DETECTORS / f"{each}.yaml") for each in ("msp", "energy", "react", "mds", "nac")}
        },
    }
