"""Processes that load images: what they need, and what each does first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import get_worker_info

from lightning_ood.errors import InputError
from lightning_ood.ops.orphans import stop_worker_with_parent

if TYPE_CHECKING:
    from lightning_ood.data.sets import Batch

SHARED = Path("/dev/shm")  # where these processes leave their batches
AHEAD = 2  # batches that each has ready, PyTorch's default


def check_shared_memory(workers: int, batch: int, size: tuple[int, int]) -> None:
    """Compares the free space of /dev/shm with what the processes of a loader may have ready.

    Args:
        workers: number of processes.
        batch: images in a batch.
        size: height and width of an image, float32.

    Raises:
        InputError: if it is too small; the processes would die, or wait.
    """
    if not workers or not SHARED.is_dir():
        return
    free, needed = shutil.disk_usage(SHARED).free, workers * AHEAD * batch * 3 * size[0] * size[1] * 4
    if free < needed:
        raise InputError(
            f"{SHARED} has {free / 1e6:.0f} MB free, and {workers} processes that load batches of {batch} images need "
            f"up to {needed / 1e6:.0f} MB: give --data.num_workers 0, a smaller --data.batch_size, or a larger "
            f"{SHARED} (docker run --shm-size 8g)"
        )


def share(batch: Batch) -> Batch:
    """Moves the tensors of a batch to shared memory, in a process that loads images.

    Where /dev/shm is full this raises. PyTorch would move them in the thread that sends them, whose failure leaves the
    run waiting.
    """
    return batch if get_worker_info() is None else type(batch)(*(part.share_memory_() for part in batch))


def start_worker(worker: int) -> None:
    """Ends with the process that reads its images, and seeds Python's and NumPy's generators as Lightning does.

    Lightning seeds only workers of loaders without a function of their own.
    """
    stop_worker_with_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):
        from lightning.fabric.utilities.seed import pl_worker_init_function  # `predict` does not import Lightning

        pl_worker_init_function(worker)
