"""Steps along an input gradient: those of plain autograd on any network, beside all else that a forward reads."""

import pytest
import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.features import Features, Reads
from lightning_ood.views import Jigsaw
from lightning_ood.views.perturbation import Perturbation
from tests.backbone.test_backbone import MODELS

STEP = (0.02, 0.01, 0.03)


def confidence(features: Features) -> Tensor:
    """A loss of the logits."""
    return -features.log_probs.amax(1)


def length(features: Features) -> Tensor:
    """A loss of the penultimate feature and of a map."""
    return features.pooled.norm(dim=1) + features.maps["last"].flatten(1).std(dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_plain_autograd(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name]().eval().requires_grad_(False)
    backbone = Backbone(network, (64, 64))
    images = torch.randn(2, 3, 64, 64)
    block = backbone.info().blocks[0]
    plain_reads = Reads(("last",), (block,), views=(Jigsaw(),))
    backbone.configure(plain_reads)
    steps = [Perturbation("confidence", STEP, confidence), Perturbation("length", STEP, length)]
    with torch.inference_mode():
        alone = backbone(images * 1.0)
        backbone.configure(plain_reads | Reads(perturbations=tuple(steps)))
        features = backbone(images * 1.0)
    assert set(features.views) == {*steps, Jigsaw()}
    for value, other in ((features.logits, alone.logits), (features.gradients[block], alone.gradients[block])):
        torch.testing.assert_close(value, other)
    assert not any(t.requires_grad for t in (features.logits, features.pooled, features.maps["last"]))

    pixels = images.clone().requires_grad_()
    (-network(pixels).log_softmax(1).amax(1)).sum().backward()
    assert pixels.grad is not None
    sign = torch.where(pixels.grad >= 0, 1.0, -1.0)
    backbone.configure(plain_reads)
    plain = backbone(images - torch.tensor(STEP)[:, None, None] * sign)
    moved = [features.views[step].pooled - alone.pooled for step in steps]
    expected = plain.pooled - alone.pooled
    scale = float(expected.abs().max())
    assert scale > 0 and not torch.equal(*moved)
    torch.testing.assert_close(moved[0], expected, atol=0.02 * scale, rtol=0)  # a pixel's sign may be rounding


def test_a_step_is_a_value() -> None:
    assert Perturbation("a", STEP, confidence) == Perturbation("a", STEP, length)
    assert len({Perturbation("a", STEP, confidence), Perturbation("b", STEP, confidence)}) == 2
    images = torch.zeros(1, 3, 1, 1, requires_grad=True)
    new = Perturbation("a", STEP, confidence)(images, torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1))
    torch.testing.assert_close(new.flatten(), torch.tensor([-0.02, 0.01, -0.03]))
    assert not new.requires_grad


def test_the_loss_is_taken_in_float32_under_autocast() -> None:
    network = MODELS["resnet20"]().eval()
    backbone = Backbone(network, (32, 32))
    seen = []

    def loss(features: Features) -> Tensor:
        assert features.head is not None
        seen.append(features.head(features.pooled))
        return seen[-1].amax(1)

    # configured before: it looks at the network in its own precision
    backbone.configure(Reads(perturbations=(Perturbation("top", STEP, loss),)))
    with torch.autocast("cpu", torch.bfloat16):
        backbone(torch.randn(2, 3, 32, 32))
    assert seen[0].dtype == torch.float32
