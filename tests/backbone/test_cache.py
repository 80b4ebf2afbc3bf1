"""A feature cache gives what the network gives, misses what has changed, and stays within its size."""

from pathlib import Path

import pytest
import torch

from lightning_ood.backbone import Backbone
from lightning_ood.backbone.cache import FeatureCache
from lightning_ood.features import Reads
from tests.helpers.tiny import Net


def backbone(cache: FeatureCache, seed: int = 0, taps: tuple[str, ...] = ("block2",)) -> Backbone:
    made = Backbone(Net(seed=seed).eval().requires_grad_(False), (12, 12))
    made.cache = cache
    made.configure(Reads(tuple(taps), tuple(taps[:1])))
    return made


def test_a_second_look_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, 10**9)
    images = torch.randn(5, 3, 12, 12)
    first = backbone(cache)(images, torch.arange(5))
    again = backbone(FeatureCache(tmp_path, 10**9))
    monkeypatch.setattr(Net, "forward", None)  # a call would fail
    second = again(images, torch.arange(5) + 1)
    for name in ("logits", "pooled"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert torch.equal(first.maps["block2"], second.maps["block2"])
    assert torch.equal(first.gradients["block2"], second.gradients["block2"])
    assert second.labels is not None and second.labels[0] == 1, "labels are not cached"


def test_what_has_changed_is_a_miss(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**9)
    images = torch.randn(5, 3, 12, 12)
    backbone(cache)(images)
    for other in (
        lambda: backbone(cache)(images + torch.eye(12) * 1e-6),  # a pixel
        lambda: backbone(cache, seed=1)(images),  # the weights
        lambda: backbone(cache)(images[:4]),  # the batch
        lambda: backbone(cache, taps=("block1", "block2"))(images),  # one tap more
    ):
        hits, misses = cache.hits, cache.misses
        other()
        assert (cache.hits, cache.misses) == (hits, misses + 1)
    network = backbone(cache)
    with torch.no_grad():
        network.network.fc.bias[0] += 1e-6
    network.configure(Reads(("block2",), ("block2",)))
    network(images)
    assert cache.hits == 0
    backbone(cache, taps=("block2",))(images)
    assert cache.hits == 1, "the parts that were added did not replace those that were there"


def test_bounded(tmp_path: Path) -> None:
    one = backbone(FeatureCache(tmp_path / "one", 10**9))
    one(torch.randn(5, 3, 12, 12))
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*.safetensors"))
    cache = FeatureCache(tmp_path / "many", int(3.5 * size))
    batches = torch.randn(9, 5, 3, 12, 12)
    network = backbone(cache)
    for batch in batches:
        network(batch)
        assert sum(path.stat().st_size for path in (tmp_path / "many").rglob("*.safetensors")) <= 3.5 * size
    network(batches[-1])
    assert cache.hits == 1, "the newest is there"
    tiny = backbone(FeatureCache(tmp_path / "tiny", 10))
    tiny(batches[0])
    assert not list((tmp_path / "tiny").rglob("*.safetensors"))


def test_bounded_where_several_processes_fill_it(tmp_path: Path) -> None:
    """What another one writes counts, what it removes is no error, what a dead one left half written goes first."""
    one = backbone(FeatureCache(tmp_path / "one", 10**9))
    one(torch.randn(5, 3, 12, 12))
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*.safetensors"))
    folder = tmp_path / "many"
    (folder / "00").mkdir(parents=True)
    (folder / "00" / ".dead.1.partial").write_bytes(bytes(3 * size))
    first, second = (backbone(FeatureCache(folder, int(3.5 * size))) for _ in range(2))
    for batch in torch.randn(5, 5, 3, 12, 12):
        for network in (first, second):
            network(batch * (1 if network is first else 2))
            assert sum(path.stat().st_size for path in folder.rglob("*.*")) <= 3.5 * size
    assert first.cache is not None and second.cache is not None
    first(batch)
    second(batch * 2)
    assert first.cache.hits == second.cache.hits == 1, "the newest of both are there"


def test_a_damaged_file_is_a_miss(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**9)
    network = backbone(cache)
    images = torch.randn(5, 3, 12, 12)
    expected = network(images)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(network(images).logits, expected.logits)
    assert cache.hits == 0
    network(images)
    assert cache.hits == 1
