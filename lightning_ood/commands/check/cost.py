"""Estimates memory and time of the whole run from a dry run on samples."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from lightning_ood.commands.check.dry_run import DryRun
from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.sets import role
from lightning_ood.data.sets import ImageSet
from lightning_ood.ops.memory import most_held

_READS = {"fit": ("train", "val_ood"), "test": ("test", "csid", "ood")}  # job -> roles of the sets that it reads


def estimate(found: Findings, dry_run: DryRun, sets: Mapping[str, ImageSet], workers: int) -> None:
    """Adds the cost of each detector and the totals, where ``workers`` processes read images (0: the main process)."""
    per_image, world = dry_run.timer.per_image, dry_run.trainer.world_size
    for name, facts in found.detectors.items():
        facts.fit_seconds_per_image, facts.test_seconds_per_image = per_image(f"fit {name}"), per_image(f"score {name}")
    read, once = per_image("read"), sum(per_image(f"compute {name}") for name in found.detectors)
    for job, step in (("fit", "fit"), ("test", "score")):
        images = sum(len(images) for key, images in sets.items() if role(key) in _READS[job])
        if job == "fit" and not any(facts.fit for facts in found.detectors.values()):
            found.estimate[job] = {"images": 0, "seconds": 0.0, "seconds_per_image": {}}
            found.add("ok", "cost", job, "no detector needs a fit: no image is read for one")
            continue
        network = per_image(f"network, {job}")
        scores = sum(per_image(f"{step} {name}") for name in found.detectors)
        total = max(read / workers, network + scores) if workers else read + network + scores
        seconds = (images * total / world if network else 0.0) + (once if job == "fit" else 0.0)
        parts = {"read": read, "network": network, "detectors": scores}
        found.estimate[job] = {"images": images, "seconds": seconds, "seconds_per_image": parts}
        if network:
            after = ", after the training" if job == "fit" and dry_run.module.finetune != "none" else ""
            shares = f"{duration(read)} to read, {duration(network)} network, {duration(scores)} detectors an image"
            shared = f", {world} processes" if world > 1 else ""
            message = f"about {duration(seconds)} for {images} images{after} ({shares}{shared}); an estimate"
            found.add("ok", "cost", job, message)
    _memory(found, dry_run.module.device, dry_run.module.keep_memory)


def _memory(found: Findings, device: torch.device, keep_memory: bool) -> None:
    sums = found.estimate["memory"]["state_bytes"]
    fitted = sum(facts.fitted_bytes or 0 for facts in found.detectors.values())
    cuda = device.type == "cuda"
    total = torch.cuda.mem_get_info(device)[1] if cuda else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found.estimate["memory"] |= {"fitted_bytes": fitted, "device_bytes": total}
    message = f"detectors hold {size(sums)} while they are fitted and at least {size(fitted)} while they score"
    peak = torch.cuda.max_memory_allocated(device) if cuda else most_held()
    found.estimate["memory"]["peak_bytes"] = peak
    message += f"; the dry run took {size(peak)}"
    if not cuda and keep_memory:
        message += ", and memory once taken is kept (--model.reading.keep_memory false gives it back)"
    found.add("warning" if sums > 0.9 * total else "ok", "cost", "memory", f"{message} ({device} has {size(total)})")


def size(count: float) -> str:
    """Formats a number of bytes in steps of 1000."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def duration(seconds: float) -> str:
    """Formats seconds with a unit."""
    if seconds < 1:
        return f"{1000 * seconds:.{2 if seconds < 0.01 else 0}f} ms"
    if seconds < 100:
        return f"{seconds:.{1 if seconds <= 9.5 else 0}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
