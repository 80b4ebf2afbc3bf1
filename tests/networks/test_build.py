import hashlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from lightning_ood.errors import InputError
from lightning_ood.networks import online
from lightning_ood.networks.build import build
from lightning_ood.networks.cifar import ResNet20
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.ops import checksums
from lightning_ood.ops.checksums import weights_hash

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "num_classes": 4}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, empty caches, and nobody has told the libraries."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["timm:resnet18", "hf-hub:timm/resnet18.a1_in1k", "torchvision:resnet18"])
def test_pretrained_without_network_fails_in_seconds(offline: None, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no pretrained weights for .*resnet18.*Give a file with weights: FILE"):
        build(name)
    assert time.monotonic() - start < 15
    assert constants.HF_HUB_OFFLINE is False  # left as it was


def test_host_that_never_answers_counts_as_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(3) or [])
    start = time.monotonic()
    assert not online.reachable("http://example.invalid", seconds=0.2)
    assert time.monotonic() - start < 2


def test_any_answer_counts_as_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        assert online.reachable(f"http://127.0.0.1:{server.getsockname()[1]}/weights")


def test_cached_weights_need_no_network(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.manual_seed(3)
    published = torchvision.models.resnet18()
    file = tmp_path / "torch" / "checkpoints" / Path(url).name
    file.parent.mkdir(parents=True)
    torch.save(published.state_dict(), file)
    # torch.hub checks the hash that stands in a file's name only when it downloads
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth has the SHA-256 .* its name says f37072fd"):
        build("torchvision:resnet18", weights="IMAGENET1K_V1")
    monkeypatch.setattr(checksums, "file_hash", lambda path: "f37072fd" + 56 * "0")
    built = build("torchvision:resnet18", weights="IMAGENET1K_V1")
    assert weights_hash(built.network) == weights_hash(published) and not built.source.random
    assert str(built.source) == "torchvision:resnet18, IMAGENET1K_V1"


def test_timm_network_with_options() -> None:
    built = build("timm:resnet18", weights="none", options=SMALL, preprocess={"size": 32})
    assert not built.network.training and built.source.random
    assert built.network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert built.preprocess.size == (32, 32) and built.preprocess.resize == 32
    assert built.preprocess.mean == timm.data.IMAGENET_DEFAULT_MEAN
    assert "random" in str(built.source)


def test_image_size_of_a_timm_transformer_reaches_the_preprocessing() -> None:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 3}
    built = build("timm:vit_tiny_patch16_224", weights="none", options=options)
    assert built.preprocess.size == (32, 32)
    assert built.network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_name_without_prefix_is_timms_first() -> None:
    assert build("resnet18", weights="none", options=SMALL).source.library == "timm"
    assert build("shufflenet_v2_x0_5", weights="none").source.library == "torchvision"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_is_looked_for_in_the_root(tmp_path: Path, suffix: str) -> None:
    network = timm.create_model("resnet18", **SMALL)
    save = save_file if suffix == ".safetensors" else torch.save
    save(network.state_dict(), tmp_path / f"small{suffix}")
    built = build("timm:resnet18", weights=f"small{suffix}", options=SMALL, root=tmp_path)
    assert not built.source.random and weights_hash(built.network) == weights_hash(network)
    assert f"small{suffix}" in str(built.source)
    absolute = build("timm:resnet18", weights=str(tmp_path / f"small{suffix}"), options=SMALL)
    assert weights_hash(absolute.network) == weights_hash(network)


def test_a_weight_file_is_the_one_of_its_hash(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", **SMALL)
    file = tmp_path / "small.pth"
    torch.save(network.state_dict(), file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    given = {"weights": "small.pth", "options": SMALL, "root": tmp_path}
    assert build("timm:resnet18", **given).source.sha256 == found, "recorded"
    for same in (found, found[:8], found.upper()):
        build("timm:resnet18", **given, sha256=same)
    with pytest.raises(InputError, match=rf"small\.pth has the SHA-256 {found}, not 0{found[1:9]}1"):
        build("timm:resnet18", **given, sha256=f"0{found[1:9]}1")
    with pytest.raises(InputError, match="is no hash; give 8 to 64 hex digits"):
        build("timm:resnet18", **given, sha256="abc")
    with pytest.raises(InputError, match="sha256 is the hash of a weight file"):
        build("timm:resnet18", weights="none", options=SMALL, sha256=found)


def test_folder_with_config_and_weights(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", **SMALL, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    timm.models.save_for_hf(network, tmp_path / "mine", model_args=SMALL)
    built = build("local-dir:mine", root=tmp_path)
    assert weights_hash(built.network) == weights_hash(network) and not built.source.random
    assert built.preprocess.mean == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match=r"no .*other.config\.json"):
        build("local-dir:other", root=tmp_path)
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"local-dir:.*mine cannot be built: "):
        build("local-dir:mine", root=tmp_path)


def test_torchvision_file_keeps_the_preprocessing_of_its_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "file_hash", lambda path: "b0353104" + 56 * "0")  # the published file's
    first = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / Path(first.url).name)
    built = build("torchvision:mobilenet_v2", weights=Path(first.url).name, root=tmp_path)
    assert built.preprocess == Preprocess.from_torchvision(first)
    assert built.preprocess.resize == 256
    assert build("torchvision:mobilenet_v2", weights="none").preprocess.resize == 232  # the default entry's


def test_own_network_says_its_preprocessing_or_the_user_does() -> None:
    own = build(network=ResNet20(), weights="none", preprocess={"std": [0.2, 0.2, 0.2]})
    assert own.preprocess == Preprocess((32, 32), 32, "bilinear", (0.485, 0.456, 0.406), (0.2, 0.2, 0.2))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(InputError, match=r"no preprocessing of its own and mean, std is not given"):
        build(network=plain, weights="none", preprocess={"size": 2})
    described = {"size": [2, 2], "mean": [0.5] * 3, "std": [0.5] * 3}
    assert build(network=plain, weights="none", preprocess=described).preprocess.resize == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt50"}, "no network is called 'resnt50'.*timm:resnet50.*torchvision:resnet50"),
        ({"name": "torchvision:resnet10t"}, "no network is called .* in torchvision;"),
        ({"name": "resnet50.a9_in1k"}, r"Invalid pretrained tag.*resnet50\.a1_in1k"),
        ({"name": "timm:resnet18", "weights": "none", "options": {"foo": 3}}, "'foo': 3.*cannot be built"),
        ({"name": "torchvision:resnet18", "weights": "none", "options": {"foo": 3}}, "'foo': 3.*cannot be built"),
        (
            {"name": "timm:resnet18", "weights": "pretraned"},
            "'pretraned' are neither one of pretrained, none nor a file",
        ),
        ({"name": "torchvision:resnet18", "weights": "IMAGENET1K_V9"}, "one of pretrained, none, IMAGENET1K_V1 nor"),
        ({"name": "timm:resnet18", "weights": "x.pth"}, r"there is no weight file .*x\.pth"),
        ({"name": "timm:resnet18", "weights": "none", "preprocess": {"sizes": 3}}, "no 'sizes'; it has size, resize"),
        ({"network": nn.Identity()}, "there are no published weights for Identity"),
        ({"network": nn.Identity(), "options": {"a": 1}}, r"options \['a'\] belong to a named network"),
        ({"network": nn.Identity(), "name": "resnet18"}, "not both"),
        ({}, "not both"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**arguments)


def test_weights_that_a_module_comes_with_are_not_called_random() -> None:
    changes = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    source = build(network=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), weights="none", preprocess=changes).source
    assert source.unread and not source.random
    assert str(source) == "Sequential, its own weights (weights: none)"
    with pytest.raises(InputError, match="weights_prefix belongs to a weight file"):
        build("timm:resnet18", weights="none", weights_prefix="ema")
