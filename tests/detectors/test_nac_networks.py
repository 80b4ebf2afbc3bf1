"""NAC on real networks: the published settings, the shared backward pass, the class token."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.features import Reads
from lightning_ood.networks.cifar import ResNet18

ROOT = Path(__file__).parents[2]


def published(name: str) -> NAC:
    """The detector of a ready configuration."""
    arguments = yaml.safe_load((ROOT / "configs" / "detectors" / f"nac_{name}.yaml").read_text())["init_args"]
    return NAC(**{**arguments, "layers": {tap: NACLayer(**layer) for tap, layer in arguments["layers"].items()}})


def test_agrees_with_the_formula_on_a_resnet() -> None:
    """Four layers of ResNet-18 with the published settings, against autograd on a copy of the network in float64.

    The network is in float32, so a state at the edge of one of up to 500 bins may lie on its other side.
    """
    torch.manual_seed(0)
    network = ResNet18().eval()
    draw = torch.Generator().manual_seed(1)
    train, test = (torch.randn(n, 3, 32, 32, generator=draw) for n in (30, 8))
    detector = published("cifar10_resnet18")
    backbone = Backbone(network, (32, 32))
    detector.setup(backbone.info(torch.zeros(30, dtype=torch.int64)))
    backbone.configure(detector.reads)
    for images, index in zip(train.split(11), torch.arange(30).split(11), strict=True):
        detector.update(backbone(images, index=index))
    scores = detector.score(features := backbone(test), detector.compute())

    exact = copy.deepcopy(network).double()

    def states(images: Tensor) -> dict[str, np.ndarray]:
        seen: dict[str, Tensor] = {}
        names = {"pooled": "avgpool", "layer3": "layer3", "layer2": "layer2", "layer1": "layer1"}
        handles = [
            exact.get_submodule(module).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
            for name, module in names.items()
        ]
        loss = -exact(images.double()).log_softmax(1).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(seen.values()))
        for handle in handles:
            handle.remove()
        z = {name: out.detach().sum((2, 3)) for name, out in seen.items()}
        g = {name: gradient.sum((2, 3)) for name, gradient in zip(seen, gradients, strict=True)}
        return {name: (detector.layers[name].alpha * z[name] * g[name]).sigmoid().numpy() for name in z}

    fitted_on, asked = states(train), states(test)
    expected = []
    for name, layer in detector.layers.items():
        np.testing.assert_allclose(detector.states(features, name).numpy(), asked[name], rtol=0, atol=1e-4)
        edges = detector.edges[name].numpy()
        phi = np.zeros_like(asked[name])
        for i in range(phi.shape[1]):
            counts, _ = np.histogram(fitted_on[name][:, i], edges)
            phi[:, i] = np.minimum(counts[np.digitize(asked[name][:, i], edges) - 1] / layer.samples, 1)
        expected.append(phi.mean(1))
    assert scores.tolist() == pytest.approx(np.mean(expected, axis=0).tolist(), rel=1e-4)
    assert scores.unique().numel() > 4


def test_the_pooled_layer_of_a_transformer_is_its_class_token() -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 3, 2, 24, 48, num_classes=5).eval()
    torch.nn.init.normal_(network.heads[-1].weight)
    tokens = "encoder.layers.encoder_layer_1.ln_2"
    detector = NAC({"pooled": NACLayer(alpha=1), tokens: NACLayer(alpha=1)})
    backbone = Backbone(network, (32, 32))
    detector.setup(backbone.info())
    backbone.configure(detector.reads | Reads(("encoder.ln",), ("encoder.ln",)))
    batch = backbone(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    z, g = batch.maps["encoder.ln"], batch.gradients["encoder.ln"]
    class_token = (z[:, :, 0].double() * g[:, :, 0].double()).sigmoid()
    torch.testing.assert_close(detector.states(batch, "pooled"), class_token, rtol=1e-5, atol=1e-8)
    z, g = batch.maps[tokens].double().sum(2), batch.gradients[tokens].double().sum(2)
    assert z.shape == (4, 24) and g.abs().sum() > 0
    torch.testing.assert_close(detector.states(batch, tokens), (z * g).sigmoid(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "network", "side", "neurons"),
    [
        ("cifar10_resnet18", ResNet18, 32, (512, 256, 128, 64)),
        ("cifar100_resnet18", lambda: ResNet18(100), 32, (512, 256, 128, 64)),
        ("imagenet_resnet50", torchvision.models.resnet50, 64, (2048, 1024, 512, 256)),
        ("imagenet_vit", lambda: torchvision.models.vit_b_16(image_size=32), 32, (768, 768, 768, 768)),
    ],
)
def test_published_settings_find_their_layers(
    name: str, network: Callable[[], torch.nn.Module], side: int, neurons: tuple[int, ...]
) -> None:
    detector = published(name)
    detector.setup(Backbone(network().eval(), (side, side)).info())
    assert tuple(detector.widths) == neurons
