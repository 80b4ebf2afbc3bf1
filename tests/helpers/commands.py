"""``python train.py …`` without its imports: a process that has the package loaded forks for each command.

A test calls the command line dozens of times, and most of a call would be the import of torch, Lightning and timm. The
forked process is a new Python process in all else: its arguments, folder, environment and output are its own, and it
ends as ``python train.py`` does. What a command imports, and how fast, is tested with fresh processes
(``tests/commands/test_front_door.py``).
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.runs import ROOT


class Commands:
    """Runs commands one after another; the process is started by the first and ended with ``close``."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        timeout: float,
        started: Callable[[int], object] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run`` returns for ``python train.py ARGUMENTS``; ``started`` gets its process number.

        Raises:
            subprocess.TimeoutExpired: after ``timeout`` seconds; the command and its children are killed.
        """
        argv = [str(ROOT / "train.py"), *arguments]
        with tempfile.TemporaryDirectory() as pipes, ThreadPoolExecutor(2) as readers:
            said = [Path(pipes) / name for name in ("stdout", "stderr")]
            for pipe in said:
                os.mkfifo(pipe)
            call = {"argv": argv, "folder": str(folder), "environment": environment, "said": list(map(str, said))}
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps(call), file=process.stdin, flush=True)
            reading = [readers.submit(pipe.read_text) for pipe in said]
            child = int(process.stdout.readline())
            if started is not None:
                started(child)
            late = not select.select([process.stdout], [], [], timeout)[0]
            if late:
                os.killpg(child, signal.SIGKILL)
            code = int(process.stdout.readline())
            out, err = (read.result() for read in reading)  # to the end of whatever the command has started
        if late:
            raise subprocess.TimeoutExpired(argv, timeout, out, err)
        return subprocess.CompletedProcess(argv, code, out, err)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=30)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.commands"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process


def _serve() -> None:
    """Answers each line of the standard input with the number of a process and, at its end, its exit code."""
    import lightning_ood.commands.compare
    import lightning_ood.commands.lightning_cli
    import lightning_ood.report.loggers
    import lightning_ood.report.publish  # noqa: F401

    gc.collect()
    gc.freeze()  # a child does not look through, and so copy, what was loaded here
    for line in sys.stdin:  # noqa: B007
        if not (child := os.fork()):
            break
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        return
    from wandb.sdk.data_types._private import MEDIA_TMP

    Path(MEDIA_TMP.name).mkdir(exist_ok=True)  # made by W&B's import, and removed by each process that ends
    call = json.loads(line)  # in the forked process
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, pipe in enumerate(call["said"], 1):
        os.dup2(os.open(pipe, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    sys.argv[:] = call["argv"]
    sys.path[0] = str(ROOT)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
