"""What the processes of a run do together: exchange tensors of any length, and die together."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_ood.errors import InputError

_RANK = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # torchrun, Lightning, SLURM, LSF
PATIENCE = 10.0  # seconds in which a process that an exchange missed is seen to have died


def rank() -> int:
    """The number of this process among all: what the process group says, else what the launcher wrote."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return next((int(os.environ[name]) for name in _RANK if name in os.environ), 0)


def gather(part: Tensor) -> Tensor:
    """What all processes hold, ``[n, ...]`` each, n of its own: one after the other, on the device of ``part``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(gather_all_tensors(part))
    return part


def stop_with_parent() -> None:
    """Ends this process when the one that started it dies, instead of waiting for it at the next exchange."""
    parent, rank = os.getppid(), os.environ.get("LOCAL_RANK", "?")
    name = "the torchrun agent" if "TORCHELASTIC_RUN_ID" in os.environ else "process 0"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print(f"error: {name} died (process {rank} noticed and stops)", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def naming_the_dead(children: Sequence[Popen], processes: int) -> Iterator[None]:
    """Says which process died where an exchange with it failed: gloo and NCCL name a port or nothing.

    Args:
        children: processes 1, 2, … where this one started them, also while the list still grows; torchrun and SLURM
            name and end theirs.
        processes: how many take part.

    Raises:
        InputError: in the process that started the others, naming the one that ended first. The others end with it.
    """
    try:
        yield
    except RuntimeError as error:
        limit = time.monotonic() + (PATIENCE if processes > 1 else 0)
        while time.monotonic() < limit:  # a process that was started by another one is ended here by `stop_with_parent`
            for rank, child in enumerate(children, start=1):
                if child.poll():
                    raise InputError(
                        f"process {rank} died (exit code {child.returncode}) and ends the run; what it said is above"
                    ) from error
            time.sleep(0.1)
        raise
