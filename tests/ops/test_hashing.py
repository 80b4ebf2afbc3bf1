import pytest
import torch

from lightning_ood.ops.hashing import hash_index

INDEX = torch.arange(100_000)


def splitmix64(x: int) -> int:
    """One step in plain integers."""
    mask = 2**64 - 1
    x = (x + 1) * 0x9E3779B97F4A7C15 & mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


@pytest.mark.parametrize("index", [0, 1, 7, 123456789, 2**40])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (3, 0), (0, 5)])
def test_is_splitmix(index: int, seed: int, stream: int) -> None:
    expected = splitmix64(index + splitmix64(splitmix64(seed) + stream)) >> 1
    assert hash_index(torch.tensor([index]), seed, stream).item() == expected


def test_is_uniform_and_without_collisions() -> None:
    keys = hash_index(INDEX, seed=0)
    assert (keys >= 0).all() and keys.unique().numel() == len(keys)
    share = keys.double() / 2**63
    assert share.histc(10, 0, 1).div(len(keys)).sub(0.1).abs().max() < 0.005
    assert torch.corrcoef(torch.stack([INDEX.double(), share]))[0, 1].abs() < 0.02


def test_depends_on_the_image_alone() -> None:
    shape = INDEX.view(100, 1000).flip(0)
    assert torch.equal(hash_index(shape, 1), hash_index(INDEX, 1).view(100, 1000).flip(0))


def test_seeds_and_streams_are_independent() -> None:
    draws = [hash_index(INDEX, 0), hash_index(INDEX, 1), hash_index(INDEX, 0, 1), hash_index(INDEX, 1, 1)]
    ranks = torch.corrcoef(torch.stack(draws).double())
    assert (ranks - torch.eye(4)).abs().max() < 0.02
    # Not the same keys for other images either: samples of two seeds are no shifts of each other.
    assert torch.cat(draws).unique().numel() == 4 * len(INDEX)
