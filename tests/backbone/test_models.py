"""Every family of networks in use: read as the network computes it; every detector runs or says why it cannot."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors import CoRP, list_detectors
from lightning_ood.errors import InputError
from lightning_ood.features import Reads
from lightning_ood.networks.cifar import ResNet20
from tools.docs import BACKBONES
from tools.docs_backbones import backbones
from tools.survey import Model, refusals, scores
from tools.zoo import MODELS, REFUSED

KINDS = list(list_detectors().values())
NAMES = [model.name for model in MODELS]
CLASS_TOKEN = (":vit_", "deit", "beit", "eva02", "cait", "xcit", "pit_")
RECTIFIED = ("resne", "vgg", "regnetx", "regnety", "repvgg", "inception", "googlenet", "alexnet", "dla34", "_resnet")
NOT_LINEAR = ("torchvision:squeezenet1_1",)
# Their fits decompose a D x D matrix of float64, which takes seconds each from here on; they read the penultimate
# feature and the logits alone, which the narrower networks have too.
WIDE, DECOMPOSE = 1300, {"MDS", "RMDS", "Residual", "ViM", "NECO", "CoP", "PNML", "GMM"}


def images(model: Model, count: int) -> Tensor:
    return torch.randn(count, 3, model.side, model.side, generator=torch.Generator().manual_seed(1))


def pooled_maps(network: nn.Module, batch: Tensor) -> list[Tensor]:
    """What the network's own pooling modules average over all of space, in order."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        read = args[0]
        if (
            isinstance(output, Tensor)
            and read.ndim == 4
            and read.shape[2] > 1
            and output.numel() in (len(read) * read.shape[1], len(read) * read.shape[3])
        ):
            found.append(read.clone())

    handles = [m.register_forward_hook(hook) for m in network.modules() if "Pool" in type(m).__name__]
    with torch.no_grad():
        network(batch)
    for handle in handles:
        handle.remove()
    return found


def test_families() -> None:
    assert len([name for name in NAMES if name.startswith("timm:")]) >= 40
    assert len([name for name in NAMES if name.startswith("torchvision:")]) >= 10
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_reads_what_the_network_computes(model: Model) -> None:
    network = model.build_small()
    backbone = Backbone(network, (model.side, model.side))
    info, batch = backbone.info(), images(model, 3)
    with torch.no_grad():
        logits = network(batch)
    backbone.configure(Reads((*info.blocks, "last"), attention=info.attention is not None))
    features = backbone(batch)

    torch.testing.assert_close(features.logits, logits, atol=1e-5, rtol=1e-5)
    assert features.pooled.shape == (3, info.num_features)
    assert (features.head is None) == (model.name in NOT_LINEAR)
    if features.head is not None:
        scale = float(logits.abs().max())
        torch.testing.assert_close(features.head(features.pooled), logits, atol=1e-5 * scale, rtol=1e-4)

    assert len(info.blocks) >= 2 and len(set(info.blocks)) == len(info.blocks)
    for tap in (*info.blocks, "last"):
        value = features.maps[tap]
        assert value.shape == (3, *info.maps[tap]) and value.isfinite().all()
        assert value.ndim == 3 or value.shape[2] == value.shape[3], "square images have square maps"
    if any(word in model.name for word in RECTIFIED) and "inception_v4" not in model.name and "_bit" not in model.name:
        for tap in info.blocks:
            assert features.maps[tap].min() >= 0, f"{tap} is after the block's activation"

    entering = pooled_maps(network, batch)
    if entering and not any(word in model.name for word in ("vgg", "alexnet", "squeezenet")):  # no pooled features
        last, read = features.maps["last"], entering[-1]
        torch.testing.assert_close(last, read if last.shape == read.shape else read.movedim(3, 1))

    assert (info.attention is not None) == any(word in model.name and "_map_" not in model.name for word in CLASS_TOKEN)
    if info.attention is not None:
        assert features.attention is not None and features.attention.shape == (3, *info.attention)
        torch.testing.assert_close(features.attention.sum(2), torch.ones(3, info.attention[0]))


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_every_detector_scores_or_says_why_not(model: Model) -> None:
    backbone = Backbone(model.build_small(), (model.side, model.side))
    known = images(model, 12)
    labels = backbone(known).prediction
    labels[8:] = torch.arange(4)  # some are wrong
    wide = backbone.probe.num_features > WIDE
    tried = {kind.__name__: kind() for kind in KINDS if not (wide and kind.__name__ in DECOMPOSE)}
    tried["CoRP"] = CoRP(size=64)  # its default decomposes 4096 random features
    scored, refused = scores(backbone, tried, known, labels, images(model, 3), passes=5)
    assert scored.keys() | refused.keys() == tried.keys()
    assert bool(refused.keys() - {"RankFeat"}) == (model.name in NOT_LINEAR)
    for name, score in scored.items():
        assert score.shape == (3,) and score.isfinite().all(), f"{name}: {score}"
    for name, why in refused.items():
        assert "leave the detector out" in why, name
        channels = name == "RankFeat" and "a channel of the map `last` per unit" in why
        assert channels or "reads the weights of a linear classifier" in why, name


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.name)
def test_a_network_without_one_classifier_is_refused_and_says_what_to_write(model: Model) -> None:
    network = model.build(**model.small)
    with pytest.raises(
        InputError, match=r"no classifier that could be found: .*options.num_classes\), or .*model.head"
    ):
        Backbone(network, (model.side, model.side)).info()


def test_class_attention_is_that_of_the_unfused_formula() -> None:
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=7).eval()
    attention = network.blocks[-1].attn
    read: list[Tensor] = []
    attention.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    backbone = Backbone(network, (64, 64))
    backbone.configure(Reads(attention=True))
    row = backbone(torch.randn(2, 3, 64, 64)).attention
    heads, width = attention.num_heads, attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    queries, keys = (
        (read[-1] @ weight[part].T + bias[part]).unflatten(2, (heads, width)).double()
        for part in (slice(0, heads * width), slice(heads * width, 2 * heads * width))
    )
    expected = torch.einsum("bhd,bnhd->bhn", queries[:, 0], keys).div(width**0.5).softmax(2)
    torch.testing.assert_close(row, expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "crossvit_tiny_240", "repvit_m1"])
def test_two_averaged_heads_are_one_linear_layer_on_both_features(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    side = 240 if "crossvit" in name else 224
    for part in network.modules():
        if isinstance(part, nn.Linear) and part.out_features == 7:
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    backbone = Backbone(network, (side, side))
    names, batch = backbone.probe.classifiers, torch.randn(2, 3, side, side)
    assert len(names) == 2
    features = backbone(batch)
    one, two = (network.get_submodule(part) for part in names)
    with torch.no_grad():
        split = features.pooled.split([one.in_features, two.in_features], dim=1)
        torch.testing.assert_close((one(split[0]) + two(split[1])) / 2, network(batch), atol=1e-4, rtol=1e-4)
    assert features.head is not None
    torch.testing.assert_close(features.head(features.pooled), features.logits, atol=1e-4, rtol=1e-4)


def test_a_classifier_of_a_map_before_pooling() -> None:
    """SqueezeNet rectifies before it pools, hence is not linear; without the ReLU the two can be exchanged."""
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=7).eval()
    assert Backbone(network, (64, 64)).head is None
    network.classifier[2] = nn.Identity()
    features = Backbone(network, (64, 64))(torch.randn(2, 3, 64, 64))
    assert features.head is not None and features.pooled.shape == (2, 512)
    torch.testing.assert_close(features.head(features.pooled), features.logits, atol=1e-5, rtol=1e-4)


CUBES = {
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=7,
            img_size=64,
            window_size=2,
            embed_dim=16,
            depths=(2, 1, 1, 1),
            num_heads=(2, 2, 2, 2),
        ),
        True,
    ),
    "torchvision swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 16, [2, 1, 1, 1], [2, 2, 2, 2], [2, 2]),
        True,
    ),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=7, dims=(16, 24, 32, 48)), False),
    "torchvision resnet": (lambda: torchvision.models.resnet18(num_classes=7), False),
}


@pytest.mark.parametrize("name", CUBES)
def test_layout_of_maps_as_long_as_they_have_channels(name: str) -> None:
    make, channels_last = CUBES[name]
    torch.manual_seed(0)
    network = make().eval()
    side = 256 if "resnet" in name else 64  # a first block of 64 x 64 x 64 or 16 x 16 x 16
    backbone = Backbone(network, (side, side))
    block = backbone.info().blocks[0]
    raw: list[Tensor] = []
    network.get_submodule(block).register_forward_hook(lambda module, args, output: raw.append(output))
    backbone.configure(Reads((block,)))
    value = backbone(torch.randn(2, 3, side, side)).maps[block]
    assert len(set(value.shape[1:])) == 1, "the test is of a cube"
    torch.testing.assert_close(value, raw[-1].movedim(3, 1) if channels_last else raw[-1])


@pytest.mark.parametrize("size", [(64, 32), (32, 96), (256, 128)])
def test_layout_of_maps_that_are_not_square(size: tuple[int, int]) -> None:
    info = Backbone(torchvision.models.resnet18(num_classes=7).eval(), size).info()
    channels = [info.maps[block][0] for block in info.blocks]
    assert channels == [64, 64, 128, 128, 256, 256, 512, 512]
    swin = torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 1, 1], [2, 2, 2, 2], [2, 2], num_classes=7).eval()
    info = Backbone(swin, size).info()
    assert [info.maps[block][0] for block in info.blocks] == [16, 32, 32, 64, 64, 128, 128, 128]


def test_a_last_map_of_one_pixel_is_still_that_of_the_last_block() -> None:
    info = Backbone(timm.create_model("resnet18", num_classes=7).eval(), (32, 32)).info()
    assert info.maps["last"] == (512, 1, 1) and info.blocks[-1] == "layer4.1"


@pytest.mark.parametrize("make", [torchvision.models.googlenet, torchvision.models.inception_v3])
def test_auxiliary_heads_and_batch_norms_of_a_network_in_training_stay_as_they_are(make: type[nn.Module]) -> None:
    network = make(num_classes=7, init_weights=False).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    backbone = Backbone(network, (128, 128))
    assert backbone.probe.classifiers == ("fc",)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_maps_serves_what_reads_none() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 7)).eval()
    backbone = Backbone(network, (8, 8))
    info = backbone.info()
    assert not info.maps and not info.blocks
    refused = refusals({kind.__name__: kind() for kind in KINDS}, info)
    assert {"NAP", "FeatureNorm", "BlockNorm"} <= refused.keys() and "Energy" not in refused
    assert all("map" in why for why in refused.values()), refused
    served = {kind.__name__: kind() for kind in KINDS if kind.__name__ not in refused}
    known = torch.randn(12, 3, 8, 8)
    scored, _ = scores(backbone, served, known, backbone(known).prediction, torch.randn(3, 3, 8, 8), passes=5)
    assert all(score.isfinite().all() for score in scored.values())


def test_a_scaled_output_is_not_taken_for_a_linear_head() -> None:
    class Scaled(ResNet20):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    torch.manual_seed(0)
    network = Scaled(7).eval()
    nn.init.normal_(network.fc.weight)
    assert Backbone(network, (32, 32), head="fc").head is None


def test_the_page_is_current() -> None:
    """Its text and the rows of some light networks; all of them: ``python -m tools.docs backbones --check``."""
    page = BACKBONES.read_text(encoding="utf-8")
    names = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto", "squeezenet1_1")
    some = [model for model in (*MODELS, *REFUSED) if model.name.rpartition(":")[2] in names]
    assert len(some) >= 4
    missing = set(backbones(KINDS, some).splitlines()) - set(page.splitlines())
    assert not missing, "run `python -m tools.docs backbones --write`"
