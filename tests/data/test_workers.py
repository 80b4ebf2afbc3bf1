"""Loader processes and shared memory: too little of it is found before they start, and never a hang."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_ood.commands.faults import sentence
from lightning_ood.data import workers
from lightning_ood.data.sets import Item, collate
from lightning_ood.errors import InputError


def test_a_small_shared_memory_is_found_before_the_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    workers.check_shared_memory(0, 128, (224, 224))
    workers.check_shared_memory(2, 128, (32, 32))
    with pytest.raises(InputError, match=r"/dev/shm has 67 MB free, .* 154 MB: .*num_workers 0.*shm-size"):
        workers.check_shared_memory(1, 128, (224, 224))


class Fails(torch.utils.data.Dataset[Item]):
    """Where a worker cannot share what it has read, or is killed."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Item:
        if self.how == "killed":
            os.kill(os.getpid(), 9)

        def no_room(self: torch.Tensor) -> None:
            raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")

        torch.Tensor.share_memory_ = no_room  # type: ignore[assignment, method-assign]  # in a forked process
        return Item(torch.zeros(3, 2, 2), 0, index)


@pytest.mark.parametrize(("how", "expected"), [("full", "--shm-size"), ("killed", "ended from outside")])
def test_a_worker_that_fails_is_a_sentence(how: str, expected: str) -> None:
    loader = DataLoader(Fails(how), batch_size=2, num_workers=1, collate_fn=collate)
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    assert expected in (sentence(error.value) or "")
