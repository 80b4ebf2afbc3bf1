"""A feature cache gives what the network gives, misses what has changed, and stays within its size."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lightning_ood.backbone import Backbone
from lightning_ood.backbone.cache import FeatureCache
from lightning_ood.features import Reads
from lightning_ood.ops.checksums import digest
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


def harm(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def other_shape(path: Path) -> None:
    parts = {name: torch.cat([value, value]) for name, value in load_file(path).items()}
    save_file(parts, path, {"sha256": digest({"key": path.stem, **parts})})


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [harm, other_shape, pipe])
def test_a_file_that_cannot_be_used_is_a_miss(
    change: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FeatureCache(tmp_path, 10**9)
    network = backbone(cache)
    batches = torch.randn(2, 5, 3, 12, 12)
    expected = [network(images).maps["block2"] for images in batches]
    for path in tmp_path.rglob("*.safetensors"):
        change(path)
    for images, features in zip(batches, expected, strict=True):
        assert torch.equal(network(images).maps["block2"], features)
    assert cache.hits == 0
    told = capsys.readouterr().err
    assert (told.count("warning: the feature cache") == 1 and str(tmp_path) in told) or change is pipe
    network(batches[0])
    assert cache.hits == 1, "replaced"


def full(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lightning_ood.backbone.cache.save_file", write)


def a_file(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.folder.rmdir()
    cache.folder.touch()


def read_only(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, who may write anywhere


@pytest.mark.parametrize(
    ("fault", "reason"), [(full, "No space left"), (a_file, "Not a directory"), (read_only, "Read-only")]
)
def test_a_folder_that_takes_nothing_is_told_once(
    fault: Callable[..., None],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = FeatureCache(tmp_path / "cache", 10**9)
    cache.folder.mkdir()
    fault(cache, monkeypatch)
    network, plain = backbone(cache), backbone(FeatureCache(tmp_path / "other", 0))
    for images in torch.randn(3, 5, 3, 12, 12):
        assert torch.equal(network(images).logits, plain(images).logits)
    told = capsys.readouterr().err
    assert told.count("warning:") == 1 and reason in told and str(cache.folder) in told
    assert not list(tmp_path.rglob("*.partial"))
