"""Estimates memory and time of the whole run from a dry run on samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.trial import Trial
from lightning_ood.data.sets import ImageSet


def estimate(found: Findings, trial: Trial, sets: Mapping[str, ImageSet], workers: int) -> None:
    """Adds the cost of each detector and the totals.

    Args:
        found: takes it in.
        trial: after its fit and test.
        sets: of the run.
        workers: processes that read images; 0 reads in the main process.
    """
    timer, world = trial.timer, trial.trainer.world_size
    learned = {key for key in sets if key == "data.id.train" or key.startswith("data.val_ood.")}
    images = {
        "fit": sum(len(sets[key]) for key in learned),
        "test": sum(len(sets[key]) for key in sets.keys() - learned - {"data.id.val"}),
    }
    for name, facts in found.detectors.items():
        facts |= {f"{job}_seconds_per_image": timer.per_image(f"{job} {name}") for job in images}
    read = timer.per_image("read")
    for job, count in images.items():
        network = timer.per_image(f"network, {job}")
        scores = sum(facts[f"{job}_seconds_per_image"] for facts in found.detectors.values())
        per_image_total = max(read / workers, network + scores) if workers else read + network + scores
        once = sum(timer.per_image(f"compute {name}") for name in found.detectors) if job == "fit" else 0.0
        seconds = (count * per_image_total / world if network else 0.0) + once
        parts = {"read": read, "network": network, "detectors": scores}
        found.estimate[job] = {"images": count, "seconds": seconds, "seconds_per_image": parts}
        if network:
            detail = f"{_time(read)} to read, {_time(network)} network, {_time(scores)} detectors an image"
            shared = f", {world} processes" if world > 1 else ""
            after = ", after the training" if job == "fit" and trial.module.finetune != "none" else ""
            estimated = f"about {_time(seconds)} for {count} images{after}"
            found.add("ok", "cost", job, f"{estimated} ({detail}{shared}); an estimate")
    _memory(found, trial.module.device)


def _memory(found: Findings, device: torch.device) -> None:
    sums = found.estimate["memory"]["state_bytes"]
    fitted = sum(facts.get("fitted_bytes", 0) for facts in found.detectors.values())
    has = _has(device)
    found.estimate["memory"] |= {"fitted_bytes": fitted, "device_bytes": has}
    message = f"detectors hold {size(sums)} while they are fitted and at least {size(fitted)} while they score"
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        found.estimate["memory"]["peak_bytes"] = peak
        message += f"; the trial took {size(peak)}"
    level: Any = "warning" if sums > 0.9 * has else "ok"
    found.add(level, "cost", "memory", f"{message} ({device} has {size(has)})")


def _has(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def size(count: float) -> str:
    """Formats a number of bytes, in steps of 1000."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.2f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds > 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
