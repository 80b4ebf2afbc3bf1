"""Predictions by several processes, in the order of the images and in the batches of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from lightning_ood.deploy.detector import ExportedDetector
from lightning_ood.deploy.load import load_detector
from lightning_ood.deploy.prediction import Prediction, Rule
from lightning_ood.errors import InputError

_loaded: ExportedDetector  # of this process, one of the pool


def stream(
    folder: Path,
    images: Sequence[str],
    rule: Rule,
    batch_size: int,
    processes: int,
    device: str | None = None,
    trust_code: bool = False,
) -> Iterator[Prediction]:
    """Yields predictions in order; each process loads the folder, and takes the next batch when it is free.

    Images that cannot be read have an ``error``.

    Args:
        folder: the exported folder.
        images: paths.
        rule: how an image is decided.
        batch_size: images per forward.
        processes: number of processes.
        device: of all processes; the GPUs in turn where None and there are some.
        trust_code: import classes of other packages that the folder names.

    Raises:
        InputError: if a process dies.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    devices: Queue[str] = context.Queue()
    for i in range(processes):
        devices.put(device or (f"cuda:{i % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"))
    threads = max(1, torch.get_num_threads() // processes)
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    started = (str(folder), devices, trust_code, threads)
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=started) as pool:
        try:
            for found in pool.map(partial(_predict, rule, batch_size), batches):
                yield from found
        except BrokenProcessPool as error:
            raise InputError(
                f"one of {processes} processes died, perhaps for want of memory: give fewer --processes or a smaller "
                "--batch_size"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(folder: str, devices: Queue[str], trust_code: bool, threads: int) -> None:
    global _loaded
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    _loaded = load_detector(folder, devices.get(), trust_code)


def _predict(rule: Rule, batch_size: int, images: Sequence[str]) -> list[Prediction]:
    return list(_loaded.stream(images, rule, batch_size, "skip"))
