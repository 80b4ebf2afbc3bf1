"""What the processes of a run do together: exchange tensors of any length, and die together."""

from __future__ import annotations

import os
import sys
import threading
import time

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


def gather(part: Tensor) -> Tensor:
    """What all processes hold, ``[n, ...]`` each, n of its own: one after the other, on the CPU."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        part = torch.cat(gather_all_tensors(part))
    return part.cpu()


def stop_with_parent() -> None:
    """Ends this process when the one that started it dies, instead of waiting for it at the next exchange."""
    parent, rank = os.getppid(), os.environ.get("LOCAL_RANK", "?")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print(f"error: process 0 died (process {rank} noticed and stops)", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
