"""Kills one process of a run at a random moment and counts what is left of the run five seconds later.

``python experiments/faults/orphans.py --trials 40`` prints a table: launcher, victim, trials, processes left. A trial
starts ``fit`` or ``test`` with two processes and a loader process each, by Lightning's launcher or by torchrun, waits a
random time, and sends SIGKILL to a process of the run: process 0, process 1, the torchrun agent, or any.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MARK = "ORPHAN_TRIAL"  # in the environment of every process of a trial
WITHIN = 5.0  # seconds


def processes(mark: str) -> dict[int, str]:
    """Returns the living processes of a trial: number -> command line."""
    found = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and f"{MARK}={mark}\0".encode() in (path / "environ").read_bytes():
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def variables(process: int) -> dict[str, str]:
    """Returns the environment of a process."""
    text = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def config(folder: Path) -> Path:
    """Writes the config of a run that takes seconds."""

    def images(size: int, **arguments: int) -> dict[str, object]:
        return {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": size, **arguments}}

    detectors = ROOT / "configs" / "detectors"
    content = {
        "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
        "data": {
            "id": {"name": "tints", "train": images(61), "test": images(23, seed=1)},
            "ood": {"near/pale": images(17, shift=40, seed=2)},
            "batch_size": 8,
            "num_workers": 1,
        },
        "trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False},
        "scoring": {
            "detectors": {name: str(detectors / f"{name}.yaml") for name in ("energy", "react", "mds")}
            | {"slow": {"class_path": "tests.helpers.tiny.Slow"}}
        },
    }
    path = folder / "orphans.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def trial(launcher: str, victim: str, wait: float, folder: Path) -> tuple[str, dict[int, str]]:
    """Runs one trial; returns which process was killed (empty where the run was over) and what is left of the run."""
    mark = str(folder)
    train = [str(ROOT / "train.py"), "fit", "--config", str(config(folder))]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(random.randint(2e4, 6e4))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", MARK: mark}
    with (folder / "said").open("w") as said:
        command = [sys.executable, *(torchrun if launcher == "torchrun" else []), *train]
        run = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)
    time.sleep(wait)
    if run.poll() is not None:
        return "", processes(mark)
    chosen = _choose(victim, run.pid, processes(mark))
    if chosen is None:
        os.kill(run.pid, signal.SIGKILL)
        chosen = "the first"
    run.poll()
    limit = time.monotonic() + WITHIN
    while time.monotonic() < limit and processes(mark):
        run.poll()
        time.sleep(0.1)
    return chosen, processes(mark)


def _choose(victim: str, first: int, found: dict[int, str]) -> str | None:
    """Kills the victim; returns a name for it, None where there is no such process yet."""
    if victim == "agent":
        os.kill(first, signal.SIGKILL)
        return "agent"
    of_python = [number for number, line in found.items() if "train.py" in line and number != first]
    ranks = [n for n in of_python if variables(n).get("LOCAL_RANK") == victim]
    if victim == "any":
        ranks = random.sample(list(found), 1)
    if not ranks and victim == "0":
        ranks = [first]
    if not ranks:
        return None
    try:
        os.kill(min(ranks), signal.SIGKILL)
    except ProcessLookupError:
        return None
    return victim


def main() -> None:
    """Runs the trials and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=25.0, help="seconds before the kill, at most")
    given = parser.parse_args()
    random.seed(given.seed)
    kinds = [("lightning", "0"), ("lightning", "1"), ("lightning", "any")]
    kinds += [("torchrun", "agent"), ("torchrun", "0"), ("torchrun", "1"), ("torchrun", "any")]
    tried: Counter[tuple[str, str]] = Counter()
    left: Counter[tuple[str, str]] = Counter()
    for number in range(given.trials):
        kind = kinds[number % len(kinds)]
        with tempfile.TemporaryDirectory() as folder:
            wait = random.uniform(0.05, given.longest)
            killed, found = trial(*kind, wait, Path(folder))
            if killed:
                tried[kind] += 1
                left[kind] += bool(found)
            print(f"{kind[0]:10} {kind[1]:6} after {wait:5.1f} s: killed {killed or 'nothing':10}", end=" ", flush=True)
            print(f"left: {list(found.values()) or 'nothing'}", flush=True)
            for process in processes(folder):
                os.kill(process, signal.SIGKILL)
    print("\n| launcher | killed | trials | with an orphan after 5 s |\n| --- | --- | ---: | ---: |")
    for kind in kinds:
        print(f"| {kind[0]} | {kind[1]} | {tried[kind]} | {left[kind]} |")


if __name__ == "__main__":
    main()
