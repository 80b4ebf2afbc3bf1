"""Distributed helpers: gather tensors of different lengths; stop all processes when one dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import TYPE_CHECKING

from lightning_ood.errors import InputError
from lightning_ood.ops.orphans import died, stop_with_children

if TYPE_CHECKING:
    from torch import Tensor

_RANK = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # torchrun, Lightning, SLURM, LSF
PATIENCE = 3.0  # seconds after a failed collective within which a dead process is detected


def rank() -> int:
    """Returns the rank of this process, from the process group or else from the launcher's environment variables.

    Raises:
        InputError: if such a variable is no number.
    """
    torch = sys.modules.get("torch")  # commands on tables do not import it, and have no process group
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    name = next((name for name in _RANK if name in os.environ), None)
    if name is not None and not os.environ[name].isdecimal():
        raise InputError(f"the environment variable {name}={os.environ[name]!r} is no number of a process: unset it")
    return int(os.environ[name]) if name is not None else 0


def gather(part: Tensor) -> Tensor:
    """Concatenates the tensors ``[n, ...]`` of all processes in order of rank, on the device of ``part``.

    ``n`` may differ between processes.
    """
    import torch
    from torchmetrics.utilities.distributed import gather_all_tensors

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(gather_all_tensors(part))
    return part


@contextmanager
def naming_the_dead(children: Sequence[Popen], processes: int) -> Iterator[None]:
    """Reports which process died when a collective fails; gloo and NCCL name at best a port.

    Args:
        children: ranks 1, 2, … if this process started them; the list may still grow. Empty under torchrun and SLURM,
            which report and end their own processes.
        processes: number of processes.

    Raises:
        InputError: in the process that started the others; names the process that ended first. The others end too.
    """
    with stop_with_children(children):
        try:
            yield
        except RuntimeError as error:
            limit = time.monotonic() + (PATIENCE if processes > 1 else 0)
            while time.monotonic() < limit:  # in a child process `stop_with_parent` ends this loop
                for rank, child in enumerate(children, start=1):
                    if child.poll():
                        raise InputError(died(rank, child)) from error
                time.sleep(0.1)
            raise
