"""What a pass over the images costs: time, images per second, peak memory."""

from __future__ import annotations

import time

import torch

from lightning_ood.ops.memory import most_held


class Meter:
    """Measures a pass from its construction on.

    Args:
        job: ``fit`` or ``test``.
        device: of the network on this process.
    """

    def __init__(self, job: str, device: torch.device) -> None:
        self.job, self.device = job, device
        self.start = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def usage(self, images: int) -> dict[str, float]:
        """Returns the cost of the pass so far, for the loggers.

        Args:
            images: how many images all processes have read.

        Returns:
            ``cost/<job>_seconds``, ``cost/<job>_images_per_second`` (of all processes) and
            ``cost/<job>_peak_memory_gib``: on a GPU what this process's tensors took in the pass, on a CPU the most
            that this process has held so far.
        """
        seconds = time.monotonic() - self.start
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else most_held()
        values = {"seconds": seconds, "images_per_second": images / seconds, "peak_memory_gib": peak / 2**30}
        return {f"cost/{self.job}_{key}": value for key, value in values.items()}
