"""The probe finds the network's own blocks, the same for one architecture in timm and torchvision."""

from collections.abc import Callable
from itertools import chain, repeat

import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_ood.backbone import Backbone
from lightning_ood.features import NetworkInfo
from lightning_ood.networks.cifar import DenseNet, ResNet18, WideResNet

Widths = list[int]
SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (2, 2, 2, 2)}


def stages(*pairs: tuple[int, int]) -> Widths:
    """Channels of blocks, from (channels, how many)."""
    return list(chain.from_iterable(repeat(channels, times) for channels, times in pairs))


def timm_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **options)


def torchvision_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **options)


RESNET18 = stages((64, 2), (128, 2), (256, 2), (512, 2))
WIDE_RESNET50 = stages((256, 3), (512, 4), (1024, 6), (2048, 3))
DENSENET121 = [256, 512, 1024, 1024, 1024]  # dense blocks, then the normalised and rectified map
VGG11 = [64, 128, 256, 256, 512, 512, 512, 512, 512]  # rectified convolutions, then the last pooled
MOBILENETV2 = stages((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1), (1280, 1))
MOBILENETV3 = stages((16, 1), (24, 2), (40, 3), (80, 4), (112, 2), (160, 3), (960, 1))
VIT = [32] * 3  # two blocks, then the normalised tokens

BLOCKS: dict[str, tuple[Callable[[], nn.Module], Widths]] = {
    "timm resnet18": (timm_model("resnet18"), RESNET18),
    "torchvision resnet18": (torchvision_model("resnet18"), RESNET18),
    "own resnet18": (lambda: ResNet18(5), RESNET18),
    "timm wide_resnet50": (timm_model("wide_resnet50_2"), WIDE_RESNET50),
    "torchvision wide_resnet50": (torchvision_model("wide_resnet50_2"), WIDE_RESNET50),
    "own wide_resnet": (lambda: WideResNet(10, 2, 5), [32, 64, 128, 128]),
    "own densenet": (lambda: DenseNet(5), [108, 150, 342]),
    "timm densenet121": (timm_model("densenet121"), DENSENET121),
    "torchvision densenet121": (torchvision_model("densenet121"), DENSENET121),
    "timm vgg11": (timm_model("vgg11"), VGG11),
    "torchvision vgg11": (torchvision_model("vgg11"), VGG11),
    "torchvision vgg11_bn": (torchvision_model("vgg11_bn"), VGG11),
    "timm mobilenetv2": (timm_model("mobilenetv2_100"), MOBILENETV2),
    "torchvision mobilenet_v2": (torchvision_model("mobilenet_v2"), MOBILENETV2),
    "timm mobilenetv3": (timm_model("mobilenetv3_large_100"), MOBILENETV3),
    "torchvision mobilenet_v3": (torchvision_model("mobilenet_v3_large"), MOBILENETV3),
    "timm convnext": (timm_model("convnext_atto"), stages((40, 2), (80, 2), (160, 6), (320, 2))),
    "torchvision convnext": (torchvision_model("convnext_tiny"), stages((96, 3), (192, 3), (384, 9), (768, 3))),
    "timm swin": (
        timm_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, **SWIN),
        stages((24, 1), (48, 1), (96, 2), (192, 1), (192, 1)),
    ),
    "torchvision swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 24, [1, 1, 2, 1], [2, 2, 2, 2], [2, 2], num_classes=5),
        stages((24, 1), (48, 2), (96, 3), (192, 2), (192, 1)),  # a merging of patches is a block of its own there
    ),
    "timm vit": (timm_model("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=32, num_heads=2), VIT),
    "torchvision vit": (lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5), VIT),
    "torchvision googlenet": (
        torchvision_model("googlenet", aux_logits=False, init_weights=False),
        [256, 480, 512, 512, 512, 528, 832, 832, 1024],
    ),
}


def setup_of(network: nn.Module) -> NetworkInfo:
    return Backbone(network.eval(), (64, 64)).info()


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    make, widths = BLOCKS[name]
    info = setup_of(make())
    assert [info.maps[block][0] for block in info.blocks] == widths
    order = [list(info.maps).index(block) for block in info.blocks]
    assert order == sorted(order), "in order of execution"


def test_a_dense_block_is_what_its_layers_are_joined_to() -> None:
    info = setup_of(timm.create_model("densenet121", num_classes=5))
    assert info.blocks[:2] == ("features.denseblock1", "features.denseblock2") and info.blocks[-1] == "last"


def test_a_net_of_layers_without_blocks_has_its_activations() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    assert setup_of(network).blocks == ("1", "3")
    assert torch.Size((6, 60, 60)) == setup_of(network).maps["last"]
