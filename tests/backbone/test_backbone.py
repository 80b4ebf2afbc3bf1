"""The features that a backbone reads are those that the network itself computes."""

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors import KNN
from lightning_ood.errors import InputError
from lightning_ood.features import Reads
from lightning_ood.networks.cifar import DenseNet, ResNet18, ResNet20, WideResNet
from lightning_ood.views import Jigsaw

MODELS = {
    "timm_resnet": lambda: timm.create_model("resnet10t", num_classes=7),
    "timm_vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, depth=3),
    "timm_swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=7, img_size=64, window_size=2, depths=(1, 1, 1, 1)
    ),
    "timm_convnext": lambda: timm.create_model("convnext_atto", num_classes=7),
    "timm_mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=7),
    "torchvision_densenet": lambda: torchvision.models.densenet121(num_classes=7),
    "torchvision_vit": lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=7),
    "torchvision_mobilenet": lambda: torchvision.models.mobilenet_v2(num_classes=7),
    "densenet": lambda: DenseNet(7, depth=16),
    "resnet20": lambda: ResNet20(7),
    "resnet18": lambda: ResNet18(7),
    "wrn": lambda: WideResNet(10, 1, 7),
}


@pytest.fixture(params=MODELS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_reads_what_the_network_computes(network: nn.Module) -> None:
    backbone = Backbone(network, (64, 64))
    info = backbone.info()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        logits = network(images)
    taps = [*info.blocks, "last"]
    backbone.configure(Reads(tuple(taps), attention=info.attention is not None))
    features = backbone(images)

    torch.testing.assert_close(features.logits, logits, atol=1e-5, rtol=1e-5)
    assert features.head is not None
    torch.testing.assert_close(features.head(features.pooled), logits, atol=1e-4, rtol=1e-4)
    for tap in taps:
        assert features.maps[tap].shape == (3, *info.maps[tap])
    if info.attention is not None:
        assert features.attention is not None and features.attention.shape == (3, *info.attention)
        torch.testing.assert_close(features.attention.sum(2), torch.ones(3, info.attention[0]))


@pytest.mark.parametrize("name", ["timm_resnet", "resnet20", "densenet", "torchvision_mobilenet", "resnet18", "wrn"])
def test_last_is_the_map_before_global_pooling(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name]().eval()
    backbone = Backbone(network, (64, 64))
    backbone.configure(Reads(("last",)))
    features = backbone(torch.randn(3, 3, 64, 64))
    torch.testing.assert_close(features.maps["last"].mean((2, 3)), features.pooled, atol=1e-5, rtol=1e-4)
    assert features.maps["last"].min() >= 0, "after the last activation"


def test_a_functional_relu_behind_the_last_module_is_applied() -> None:
    network = torchvision.models.densenet121(num_classes=7).eval()
    backbone = Backbone(network, (64, 64))
    backbone.configure(
        Reads(
            (
                "last",
                "features",
            )
        )
    )
    features = backbone(torch.randn(2, 3, 64, 64))
    assert features.maps["features"].min() < 0 <= features.maps["last"].min()
    torch.testing.assert_close(features.maps["last"].mean((2, 3)), features.pooled, atol=1e-5, rtol=1e-4)


def test_an_output_that_the_network_overwrites_is_copied() -> None:
    network = timm.create_model("resnet10t", num_classes=7).eval()
    backbone = Backbone(network, (64, 64))
    images = torch.randn(2, 3, 64, 64)
    kept = []
    handle = network.layer1[0].bn1.register_forward_hook(lambda module, args, output: kept.append(output.clone()))
    backbone.configure(Reads(("layer1.0.bn1",), ("layer1.0.bn1",)))
    features = backbone(images)
    handle.remove()
    assert kept[-1].min() < 0, "before the in-place ReLU"
    torch.testing.assert_close(features.maps["layer1.0.bn1"], kept[-1].detach())


def test_gradients_are_those_of_plain_autograd_in_any_mode(network: nn.Module) -> None:
    backbone = Backbone(network, (64, 64))
    network.requires_grad_(False)
    blocks = [name for name in (backbone.info().blocks[0], backbone.info().blocks[-1]) if name != "last"]
    backbone.configure(Reads(gradients=tuple(blocks)))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = backbone(images * 1.0)

    outputs: dict[str, torch.Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: outputs.update({name: o}))
        for name in blocks
    ]
    logits = network(images.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    loss = nn.functional.kl_div(logits.log_softmax(1), uniform, reduction="sum")
    expected = torch.autograd.grad(loss, [outputs[name] for name in blocks])
    for name, gradient in zip(blocks, expected, strict=True):
        found = features.gradients[name]
        assert found.shape == features.maps[name].shape
        gradient = gradient if gradient.shape == found.shape else gradient.movedim(-1, 1)
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-3)


def test_views_are_read_from_transformed_images() -> None:
    network = ResNet20(7).eval()
    backbone = Backbone(network, (32, 32))
    images, index, view = torch.randn(3, 3, 32, 32), torch.tensor([4, 9, 2]), Jigsaw(seed=5)
    backbone.configure(Reads(("last",), views=(view,)))
    features = backbone(images, index=index)
    plain = backbone(view(images, index))
    torch.testing.assert_close(features.views[view].maps["last"], plain.maps["last"])


def test_hooks_cost_nothing_outside_a_forward_of_the_backbone() -> None:
    network = ResNet20(7).eval()
    backbone = Backbone(network, (32, 32))
    backbone.configure(
        Reads(
            (
                "last",
                "layer1.0",
            ),
            ("layer1.0",),
        )
    )
    output = network(torch.randn(2, 3, 32, 32))
    output.sum().backward()  # training goes on as if nothing were hooked
    assert network.layer1[0].conv1.weight.grad is not None


def test_planning_leaves_no_trace_in_a_network_that_is_being_trained() -> None:
    for network in (ResNet18(7), MODELS["timm_vit"]()):
        network.train()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        backbone = Backbone(network, (64, 64))
        info = backbone.info()
        backbone.configure(Reads(tuple(info.blocks), attention=info.attention is not None))
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(part.training for part in network.modules())


def test_wrong_names_fail_before_any_image() -> None:
    backbone = Backbone(ResNet20(7).eval(), (32, 32))
    with pytest.raises(InputError, match=r"no tap 'layer1.7'.*layer1"):
        backbone.configure(Reads(("layer1.7",)))
    with pytest.raises(InputError, match="class token"):
        backbone.configure(Reads(attention=True))
    with pytest.raises(InputError, match=r"model.head: the network has no module 'fcc'"):
        Backbone(ResNet20(7), (32, 32), head="fcc").info()


def test_a_network_without_a_classifier_is_refused() -> None:
    headless = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=1)
    with pytest.raises(InputError, match="no classifier"):
        Backbone(headless, (64, 64)).info()
    with pytest.raises(InputError, match="does not return logits"):
        Backbone(nn.Conv2d(3, 4, 3), (64, 64)).info()


def test_a_head_that_is_not_linear_has_no_weights() -> None:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.normalize(x) @ nn.functional.normalize(self.weight).T

    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(body, Cosine()).eval()
    info = Backbone(network, (32, 32), head="1").info()
    assert info.head is None and info.num_features == 8 and info.num_classes == 5


@pytest.mark.parametrize("options", [{"channels_last": True}, {"compile": "eager"}], ids=str)
def test_faster_ways_to_run_it_read_the_same(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network, images = ResNet20(7).eval().requires_grad_(False), torch.randn(3, 3, 32, 32)
    plain, fast = Backbone(copy.deepcopy(network), (32, 32)), Backbone(network, (32, 32), **options)
    for taps, gradients in ((["last"], []), (["layer1", "last"], []), (["layer2"], ["layer2"])):  # planned anew
        found = []
        for backbone in (plain, fast):
            backbone.configure(Reads(tuple(taps), tuple(gradients)))
            with torch.inference_mode():
                found.append(backbone(images))
        assert found[1].maps.keys() == set(taps) and found[1].gradients.keys() == set(gradients)
        for kind in ("logits", "pooled", "maps", "gradients"):
            torch.testing.assert_close(getattr(found[1], kind), getattr(found[0], kind), rtol=1e-4, atol=1e-5)
    if "channels_last" in options:
        assert found[1].maps["layer2"].is_contiguous(memory_format=torch.channels_last)


def test_a_network_is_probed_in_full_precision_under_autocast() -> None:
    backbone = Backbone(ResNet20(7).eval(), (32, 32))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        features = backbone(torch.randn(2, 3, 32, 32))
    assert backbone.probe.linear and features.logits.dtype == features.pooled.dtype == torch.float32


@pytest.mark.parametrize("name", ["timm_vit", "torchvision_vit", "resnet20"])
def test_a_network_is_left_as_it_was(name: str) -> None:
    network = MODELS[name]().eval()
    size = (64, 64) if "vit" in name else (32, 32)
    images = torch.randn(2, 3, *size)

    def hooks() -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules())

    fused = [getattr(part, "fused_attn", None) for part in network.modules()]
    before, hooked = network(images), hooks()
    with Backbone(network, size) as backbone:
        info = backbone.info()
        backbone.configure(Reads((*info.blocks, "last"), attention=info.attention is not None))
        backbone(images)
        assert hooks() > hooked
    assert hooks() == hooked
    assert [getattr(part, "fused_attn", None) for part in network.modules()] == fused
    assert torch.equal(network(images), before)
    assert backbone(images).logits.shape == (2, 7) and hooks() > hooked, "it works again after it was closed"


def test_images_without_an_index_are_counted_on() -> None:
    """A bank smaller than the set is the same whatever the batch size."""
    network, images = ResNet20(7).eval(), torch.randn(40, 3, 32, 32)
    banks = []
    for size in (40, 7):
        with Backbone(network, (32, 32)) as backbone, torch.inference_mode():
            detector = KNN(k=3, bank_size=10)
            detector.setup(backbone.info())
            for part in images.split(size):
                features = backbone(part)
                detector.update(features)
            banks.append(detector.compute()["bank"])
            assert features.index is not None and features.index[-1] == 39
            backbone.configure()
            assert torch.equal(backbone(part).index, torch.arange(len(part))), "a new pass starts at 0"  # type: ignore
    torch.testing.assert_close(banks[0], banks[1], rtol=1e-4, atol=1e-5)
