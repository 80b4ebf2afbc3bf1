"""What a process that loads images does first."""

from __future__ import annotations

import os

from lightning.fabric.utilities.seed import pl_worker_init_function

from lightning_ood.ops.orphans import stop_worker_with_parent


def start_worker(worker: int) -> None:
    """Ends with the process that reads its images, and seeds Python's and NumPy's generators as Lightning does.

    Lightning seeds only workers of loaders without a function of their own.
    """
    stop_worker_with_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):
        pl_worker_init_function(worker)
