"""Files of the layouts that papers and libraries publish, written here with random weights, load into the networks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_ood.networks.cifar import DenseNet, ResNet18, WideResNet
from lightning_ood.networks.weights import load_weights
from lightning_ood.ops.checksums import weights_hash

State = dict[str, Tensor]


def renamed(state: Mapping[str, Tensor], parts: Mapping[str, str], prefix: str = "") -> State:
    """Names with some of their parts changed to the published ones."""
    return {prefix + ".".join(parts.get(p, p) for p in key.split(".")): value for key, value in state.items()}


LAYOUTS: dict[str, tuple[Callable[[], nn.Module], Callable[[State], Any], str, str]] = {
    "OpenOOD resnet18_32x32": (
        lambda: ResNet18(10),
        lambda state: renamed(state, {"downsample": "shortcut", "fc": "linear"}),
        "best.ckpt",
        "layer2.0.shortcut.0.weight",
    ),
    "Outlier Exposure WRN-40-2": (
        lambda: WideResNet(40, 2, 10),
        lambda state: renamed(state, {"shortcut": "convShortcut"}, "module."),
        "cifar10_wrn_pretrained_epoch_99.pt",
        "module.block1.layer.0.convShortcut.weight",
    ),
    "DICE DenseNet": (
        lambda: DenseNet(10, depth=16),
        lambda state: {"epoch": 100, "state_dict": renamed(state, {"transition1": "trans1", "transition2": "trans2"})},
        "checkpoint_100.pth.tar",
        "trans1.bn1.weight",
    ),
    "torchvision ResNet-50": (
        lambda: torchvision.models.resnet50(),
        dict,
        "resnet50.pth",  # a published name ends in a hash, which random weights do not have
        "layer4.2.conv3.weight",
    ),
    "OpenOOD ImageNet ResNet-50": (
        lambda: timm.create_model("resnet50"),
        lambda state: {"state_dict": renamed(state, {}, "module.")},
        "resnet50_imagenet.pth.tar",
        "module.fc.weight",
    ),
    "timm safetensors": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=2),
        dict,
        "model.safetensors",
        "blocks.0.attn.qkv.weight",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_read(layout: str, tmp_path: Path) -> None:
    make, publish, name, key = LAYOUTS[layout]
    torch.manual_seed(0)
    trained = make()
    content = publish(dict(trained.state_dict()))
    assert key in content.get("state_dict", content)
    if name.endswith(".safetensors"):
        save_file(content, tmp_path / name)
    else:
        torch.save(content, tmp_path / name)
    network = make()
    assert weights_hash(network) != weights_hash(trained)
    load_weights(network, tmp_path / name)
    assert weights_hash(network) == weights_hash(trained)
