"""Trials on the machine: killed processes, full and read-only disks, a small /dev/shm."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from experiments.faults.bench import LIMIT, Bench, Trial
from tests.helpers.runs import ROOT

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
FULL, SHM = "a full disk", "a small /dev/shm"


def kills(count: int) -> Iterator[Trial]:
    """Yields trials that kill a run of one process at a random time, then run it again."""
    for number in range(count):
        name, command = ("plain", "trained")[number % 2], ("fit", "test", "fit_test")[number // 2 % 3]
        yield Trial("a killed run", f"{command}, {name}", partial(_kill, name=name, command=command))


def _kill(bench: Bench, draw: random.Random, name: str, command: str) -> str:
    if command != "test" and draw.random() < 0.7:
        shutil.rmtree(bench.folder / "runs" / name)
    anew = ("--overwrite",) if command != "test" and draw.random() < 0.5 else ()
    done = bench.run(command, "--config", f"{name}.yaml", *anew, kill=draw.uniform(0, 2.5))
    return "orphans" if done.left else bench.recover(name)


def workers(count: int) -> Iterator[Trial]:
    """Yields trials that kill a process that loads images."""
    for number in range(count):
        yield Trial("a killed loader process", ("fit", "test")[number % 2], partial(_worker, job=number % 2))


def _worker(bench: Bench, draw: random.Random, job: int) -> str:
    slow = ("--scoring.detectors.slow", "tests.helpers.tiny.Slow", "--data.num_workers", 2, "--data.batch_size", 4)
    marks = {"SLOW_MARKS": str(bench.folder), "SLOW_RANKS": "0"}
    if job:
        assert bench.run("fit", "--config", "plain.yaml", *slow).code == 0, bench.said

    def victim(found: list[int]) -> int | None:
        workers = [process for process in found if process != min(found)]
        return draw.choice(workers) if workers else None

    words = (("fit", "test")[job], "--config", "plain.yaml", *slow, *(() if job else ("--overwrite",)))
    done = bench.run(*words, kill=draw.uniform(0.5, 4), victim=victim, **marks)
    return bench.judge(done, bench.whole)  # whole where the process had no more to do


def pairs(count: int) -> Iterator[Trial]:
    """Yields trials that kill one of two processes of a run at a random time, then run it on one."""
    for number in range(count):
        job, victim = ("fit", "test")[number % 2], (number // 2) % 2
        yield Trial("a killed run of two processes", f"{job}, process {victim}", partial(_pair, job=job, rank=victim))


def _pair(bench: Bench, draw: random.Random, job: str, rank: int) -> str:
    def victim(found: list[int]) -> int | None:
        others = [process for process in found if process != min(found)]
        return min(found) if rank == 0 else (min(others) if others else None)

    if job == "fit":
        shutil.rmtree(bench.folder / "runs" / "plain")
    done = bench.run(job, "--config", "plain.yaml", *TWO, kill=draw.uniform(1, 9), victim=victim)
    if done.hung or done.left:
        return "hung" if done.hung else "orphans"
    return bench.recover()


def full_disks(count: int) -> Iterator[Trial]:
    """Yields trials that write a run to a file system of a few kilobytes, then to the same with more room."""
    for number in range(count):
        name, command = ("plain", "trained")[number % 2], ("fit", "test")[number // 2 % 2]
        yield Trial(FULL, f"{command}, {name}", partial(_full, name=name, command=command))


def _full(bench: Bench, draw: random.Random, name: str, command: str) -> str:
    size = draw.choice((4, 8, 16, 32, 64, 128, 256))
    run = bench.folder / "runs" / name
    kept = bench.folder / "kept"
    run.rename(kept)
    run.mkdir()
    needed = sum(path.stat().st_size // 4096 + 1 for path in kept.rglob("*") if path.is_file()) * 4
    with mounted(run, f"size={size + (needed if command == 'test' else 0)}k"):
        if command == "test":
            shutil.copytree(kept, run, dirs_exist_ok=True)
        before = {path: path.read_bytes() for path in run.rglob("*.ckpt")}
        done = bench.run(command, "--config", f"{name}.yaml", *(("--overwrite",) if command == "fit" else ()))
        found = bench.judge(done, lambda: bench.same(name) if command == "test" else any(run.rglob("last.ckpt")))
        if any(not path.is_file() or path.read_bytes() != content for path, content in before.items()):
            return "lost"
        if found != "clear":
            return found
        subprocess.run(["mount", "-o", "remount,size=64m", str(run)], check=True)
        after = bench.recover(name)
    return "clear" if after == "right" else after


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mounts a file system in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Returns True if this user may mount a file system; without it the trials of full disks are left out."""
    try:
        with mounted(folder, "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _file(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.write_text("here is a file")


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    (path / "inside").write_text("not empty")


def _loop(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


IN_THE_WAY: list[tuple[str, Callable[[Path], None]]] = [
    ("runs", _file),
    ("runs/plain", _file),
    ("runs/plain", _loop),
    *((f"runs/plain/{name}", _folder) for name in ("scores.parquet", "metrics.csv", "config.yaml", "doubts.csv")),
    *((f"runs/plain/{name}", _folder) for name in ("config.test.yaml", "unfinished.json", ".lock")),
    *((f"runs/plain/{name}", _folder) for name in ("report/index.html", "report/fits.json", "report/roc.png")),
    *((f"runs/plain/{name}", _file) for name in ("checkpoints", "report")),
    ("runs/plain/checkpoints/last.ckpt", _folder),
    ("runs/plain/checkpoints/last.ckpt", _loop),
    ("runs/plain/checkpoints", _loop),
]


def places(count: int) -> Iterator[Trial]:
    """Yields trials with something in the way of a run's files, or a read-only file system."""
    for number in range(count):
        path, make = IN_THE_WAY[number // 3 % len(IN_THE_WAY)]
        words = (("fit", "--config", "plain.yaml", "--overwrite"), ("test", "--config", "plain.yaml"))[number % 3 % 2]
        words = ("report", "runs/plain") if number % 3 == 2 else words
        play = partial(_in_the_way, path=path, make=make, words=words)
        yield Trial("a place that cannot be written", f"{words[0]}: {path}{make.__name__}", play)


def _in_the_way(
    bench: Bench, draw: random.Random, path: str, make: Callable[[Path], None], words: tuple[str, ...]
) -> str:
    make(bench.folder / path)
    done = bench.run(*words)
    return bench.judge(done, lambda: words[0] == "fit" or bench.same())


def read_only(count: int) -> Iterator[Trial]:
    """Yields trials in which the run's folder, or all that lies around it, is on a read-only file system."""
    for number in range(count):
        words = (("fit", "--config", "plain.yaml"), ("test", "--config", "plain.yaml"), ("report", "runs/plain"))
        yield Trial("a read-only disk", words[number % 3][0], partial(_read_only, words=words[number % 3]))


def _read_only(bench: Bench, draw: random.Random, words: tuple[str, ...]) -> str:
    run = bench.folder / "runs" / "plain"
    kept = bench.folder / "kept"
    run.rename(kept)
    run.mkdir()
    with mounted(run, "size=64m"):
        shutil.copytree(kept, run, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(run)], check=True)
        return bench.judge(bench.run(*words), bench.same)


def shared_memory(count: int) -> Iterator[Trial]:
    """Yields trials with a /dev/shm of a few kilobytes, in a mount namespace of their own."""
    for number in range(count):
        yield Trial(SHM, f"{(4, 64, 512)[number % 3]}k", partial(_shared_memory, size=(4, 64, 512)[number % 3]))


def _shared_memory(bench: Bench, draw: random.Random, size: int) -> str:
    command = f"mount -t tmpfs -o size={size}k tmpfs /dev/shm && exec {sys.executable} {ROOT / 'train.py'} fit"
    command += " --config plain.yaml --overwrite --data.num_workers 2 --data.batch_size 32"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", command],
            cwd=bench.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return "hung"
    bench.said = done.stdout + done.stderr
    if done.returncode == 0:
        return "right"
    return "clear" if done.returncode == 2 and "num_workers 0" in bench.said else "traceback"
