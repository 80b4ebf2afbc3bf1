"""No process outlives the one that started it, or a sibling that it waits for; the processes here import no torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_ood.ops.orphans import PARENT
from tests.helpers.runs import ROOT

PACKAGE = ROOT / "lightning_ood"
WITHIN = 5.0  # seconds
CHILD = """
import os, time
from lightning_ood.ops.orphans import stop_with_parent
stop_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def start(code: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    unbuffered = "PYTHONUNBUFFERED"  # writes a line in two parts, between which another process writes
    hidden = (PARENT, "LOCAL_RANK", "TORCHELASTIC_RUN_ID", unbuffered)
    inherited = {k: v for k, v in os.environ.items() if k not in hidden}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def read(process: subprocess.Popen[str], lines: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(lines)]


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(*numbers: int) -> bool:
    limit = time.monotonic() + WITHIN
    while any(map(alive, numbers)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(alive, numbers))


@pytest.mark.parametrize(
    "variables",
    [{"LOCAL_RANK": "1"}, {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0"}, {"ours": "yes"}],
    ids=["Lightning", "torchrun", "sweep"],
)
def test_a_process_ends_with_its_parent(variables: dict[str, str]) -> None:
    starts = "import subprocess, sys, os, time\n"
    starts += f"os.environ.update({ {k: v for k, v in variables.items() if k != 'ours'}!r})\n"
    starts += f"os.environ[{PARENT!r}] = str(os.getpid())\n" if "ours" in variables else ""
    starts += "subprocess.Popen([sys.executable, '-c', sys.argv[1]])\ntime.sleep(60)"
    parent = start(starts, CHILD)
    (child,) = read(parent, 1)
    assert alive(child)
    parent.kill()
    parent.wait()
    assert gone(child)


def test_a_parent_that_died_before_is_noticed() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    child = start(CHILD, **{PARENT: str(dead.pid), "LOCAL_RANK": "1"})
    _, err = child.communicate(timeout=WITHIN)
    assert child.returncode == 1 and err == "error: process 0 died (process 1 noticed and stops)\n"


def test_a_process_that_nobody_watches_stays() -> None:
    child = start(CHILD.replace("60", "1"))
    assert child.wait(timeout=WITHIN) == 0


def test_torchruns_sigterm_ends_a_process_whose_handler_waits() -> None:
    """As Lightning's does, for an exchange with the process that died."""
    code = CHILD.replace("print", "import signal; signal.signal(signal.SIGTERM, lambda *_: time.sleep(60))\nprint")
    child = start(code, TORCHELASTIC_RUN_ID="x")
    read(child, 1)
    child.terminate()
    assert child.wait(timeout=WITHIN) == 128 + signal.SIGTERM


def test_process_0_ends_with_a_child_and_ends_the_others() -> None:
    code = """
import subprocess, sys, time
from lightning_ood.ops.orphans import stop_with_children
children = []
with stop_with_children(children):
    children += [subprocess.Popen([sys.executable, '-c', sys.argv[1]]) for _ in range(2)]
    time.sleep(60)
"""
    parent = start(code, CHILD)
    children = read(parent, 2)
    os.kill(children[0], signal.SIGKILL)
    assert gone(*children) and parent.wait(timeout=WITHIN) == 2
    assert parent.stderr is not None and "died (exit code -9) and ends the run" in parent.stderr.read()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_ends_with_its_parent(method: str, tmp_path: Path) -> None:
    script = tmp_path / "loads.py"  # spawn imports it again
    script.write_text(
        "import multiprocessing, os, time\nfrom lightning_ood.ops.orphans import stop_worker_with_parent\n"
        "def work():\n    stop_worker_with_parent()\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        f"if __name__ == '__main__':\n    context = multiprocessing.get_context('{method}')\n"
        "    workers = [context.Process(target=work) for _ in range(3)]\n"
        "    [worker.start() for worker in workers]\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    workers = read(parent, 3)
    parent.kill()
    parent.wait()
    assert gone(*workers)


def test_every_loader_with_workers_watches_its_parent() -> None:
    for path in PACKAGE.rglob("*.py"):
        for call in re.findall(r"DataLoader\((?:[^()]|\([^()]*\))*\)", path.read_text()):
            assert "num_workers" not in call or "start_worker" in call, f"{path}: {call}"
