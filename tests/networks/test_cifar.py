from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from lightning_ood.networks.build import build
from lightning_ood.networks.cifar import DenseNet, ResNet18, ResNet20, WideResNet

NETWORKS = {
    "densenet": (DenseNet, {}, 769_162, 342),
    "resnet20": (ResNet20, {}, 269_722, 64),
    "resnet18": (ResNet18, {}, 11_173_962, 512),
    "wrn_40_2": (WideResNet, {"depth": 40, "width": 2}, 2_243_546, 128),
    "wrn_28_10": (WideResNet, {"depth": 28, "width": 10}, 36_479_194, 640),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_size_is_the_published_one(name: str) -> None:
    make, options, parameters, width = NETWORKS[name]
    network = make(**options).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.fc.in_features == width
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert make(num_classes=7, **options).fc.out_features == 7


@pytest.mark.parametrize("name", ["densenet", "resnet20", "resnet18", "wrn_40_2"])
def test_block_outputs_survive_the_forward_pass(name: str) -> None:
    make, options, _, width = NETWORKS[name]
    network = make(**options).eval()
    kept: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def keep(block: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept[block], copies[block] = output, output.clone()

        return hook

    for block in network.blocks:
        network.get_submodule(block).register_forward_hook(keep(block))
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 32, 32))
    assert tuple(kept) == network.blocks  # in order of execution
    assert all(torch.equal(kept[block], copies[block]) for block in network.blocks)
    last = kept[network.blocks[-1]]
    assert last.shape[1] == width and last.min() >= 0
    torch.testing.assert_close(network.fc(last.mean((2, 3))), logits)  # the last block is what is pooled


@pytest.mark.parametrize(("make", "depth"), [(DenseNet, 99), (ResNet20, 21), (WideResNet, 30)])
def test_impossible_depth_is_refused(make: type[nn.Module], depth: int) -> None:
    with pytest.raises(ValueError, match=f"not {depth}"):
        make(depth=depth)


def _published_layout(name: str) -> dict[str, Tensor]:
    """The state of a fresh network under the names that its published files use."""
    make, options, _, _ = NETWORKS[name]
    parts = {new: old for old, new in make.renamed.items() if old != "linear"}
    state = make(**options).state_dict()
    return {".".join(parts.get(part, part) for part in key.split(".")): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "key"),
    [("resnet18", "layer2.0.shortcut.1.running_var"), ("wrn_40_2", "block2.layer.0.convShortcut.weight")],
)
def test_published_names_are_read(name: str, key: str, tmp_path: Path) -> None:
    make, options, _, _ = NETWORKS[name]
    state = _published_layout(name)
    assert key in state
    torch.save(state, tmp_path / "published.ckpt")
    built = build(network=make(**options), weights="published.ckpt", root=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(built.network.state_dict().values(), state.values(), strict=True))


@pytest.mark.kit
@pytest.mark.parametrize(
    ("make", "file", "accuracy"),
    [(DenseNet, "densenet_bc_100_12_cifar10.pth.tar", 94.0), (ResNet20, "resnet20_cifar10.th", 91.5)],
)
def test_published_accuracy(kit: Path, make: type[nn.Module], file: str, accuracy: float) -> None:
    built = build(network=make(), weights=f"checkpoints/{file}", root=kit)
    images = ImageFolder(str(kit / "cifar10" / "test"), transform=built.preprocess.transform())
    assert len(images) == 1000
    correct = 0
    with torch.no_grad():
        for start in range(0, 1000, 100):
            batch, labels = zip(*(images[i] for i in range(start, start + 100)), strict=True)
            correct += int((built.network(torch.stack(batch)).argmax(1) == torch.tensor(labels)).sum())
    assert correct / 10 == pytest.approx(accuracy, abs=0.11)  # one image may lie on the edge on another processor


def test_preprocessing_leaves_small_images_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    built = build(network=DenseNet(), weights="none")
    expected = (pixels / 255 - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    given = built.preprocess.transform()(Image.fromarray(pixels))
    torch.testing.assert_close(given, torch.tensor(expected).permute(2, 0, 1).float())
