import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_ood.data import ExactSampler


@pytest.mark.parametrize("world_size", range(1, 6))
@pytest.mark.parametrize("size", range(21))
def test_every_index_once_over_all_processes(size, world_size):
    samplers = [ExactSampler(size, rank, world_size) for rank in range(world_size)]
    parts = [list(sampler) for sampler in samplers]
    assert sorted(index for part in parts for index in part) == list(range(size))
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_lightning_takes_it_for_a_distributed_sampler():
    assert isinstance(ExactSampler(3, 0, 2), DistributedSampler)


def test_a_loader_reads_each_image_once_and_may_be_empty():
    images = torch.arange(7)
    seen = [DataLoader(images, batch_size=2, sampler=ExactSampler(7, rank, 9)) for rank in range(9)]
    assert [len(loader) for loader in seen] == [1] * 7 + [0] * 2
    assert torch.cat([batch for loader in seen for batch in loader]).tolist() == list(range(7))
