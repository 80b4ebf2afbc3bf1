"""Ends a process whose parent or sibling has died. Imports nothing heavy: a parent may die while torch is imported."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import Popen

PARENT = "LIGHTNING_OOD_PARENT"  # process number of the process that starts others, in the environment of these
EVERY = 0.25  # seconds between two looks
GRACE = 2.0  # seconds for the main thread to end by itself, with a better message


def stop_with_parent() -> None:
    """Ends this process when the process that started it dies, instead of waiting for it at the next collective.

    Watches the processes that Lightning, torchrun or a sweep starts. A parent that died before this call is noticed
    too: by its number in the environment, or, under torchrun, because init has taken its place.
    """
    elastic, rank = "TORCHELASTIC_RUN_ID" in os.environ, os.environ.get("LOCAL_RANK", "0")
    started = os.environ.pop(PARENT, "")  # not for what this process starts
    started = started if started.isdecimal() else ""
    if not (elastic or started or rank != "0"):
        return
    if elastic:
        name, parent, gone = "the torchrun agent", os.getppid(), os.getppid() == 1 and not _runs_python(1)
        _stop_on_sigterm()
    else:
        name, parent, gone = "process 0" if rank != "0" else "the sweep", int(started or os.getppid()), False

    def watch() -> None:
        while not gone and os.getppid() == parent:
            time.sleep(EVERY)
        _exit(f"{name} died (process {rank} noticed and stops)", 1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def stop_with_children(children: Sequence[Popen]) -> Iterator[None]:
    """Ends this process when one of its child processes fails while it waits for another one in a collective.

    Args:
        children: ranks 1, 2, …; the list may still grow.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            for rank, child in enumerate(tuple(children), start=1):
                if child.poll() and not over.wait(GRACE):
                    for other in children:
                        with suppress(OSError):
                            other.kill()
                    _exit(f"{died(rank, child)}", 2)

    os.environ[PARENT] = str(os.getpid())
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        os.environ.pop(PARENT, None)


def died(rank: int, child: Popen) -> str:
    """Says that a process died, for an error message."""
    return f"process {rank} died (exit code {child.returncode}) and ends the run; its output is above"


def stop_worker_with_parent() -> None:
    """Ends a worker process of ``multiprocessing`` when its parent dies; PyTorch's own look comes after 5 seconds."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop_on_sigterm() -> None:
    """Ends this process soon after a SIGTERM, which torchrun sends when another process has died.

    A handler in Python, such as Lightning's, does not run while the main thread waits in a collective, and torchrun
    waits for 30 seconds before it sends SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(read, 64):
            pass
        time.sleep(GRACE)
        _exit("torchrun ends this process (SIGTERM), after the death of another or on request", 128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _runs_python(process: int) -> bool:
    """Returns True if a process runs Python, or where that cannot be seen."""
    try:
        program = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return True
    return b"python" in program or program.endswith(b"torchrun")


def _exit(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(code)
