"""A network that does not answer with logits, or not the same each time, is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.engine.module import OODModule, Reading
from lightning_ood.errors import InputError
from lightning_ood.networks.build import build
from tests.helpers.tiny import Net


class After(Net):
    """The network with a function of its logits as output."""

    def __init__(self, function: Callable[[Tensor], Any], num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(super().forward(images))


class OnFeature(Net):
    """The network with a function between its penultimate feature and its classifier."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.function(self.block2(self.block1(images)).mean((2, 3))))


def refusal(network: nn.Module, head: str | None = None, side: int = 12) -> str:
    with pytest.raises(InputError) as error:
        Backbone(network.eval(), (side, side), head).info()
    return str(error.value)


@pytest.mark.parametrize("head", [None, "fc"])
def test_probabilities_are_no_logits(head: str | None) -> None:
    assert "returns probabilities" in refusal(After(lambda z: z.softmax(1)), head)
    assert "returns log-probabilities" in refusal(After(lambda z: z.log_softmax(1)), head)
    assert "leave out its last softmax" in refusal(nn.Sequential(Net(), nn.Softmax(1)), "1" if head else None)


def test_a_named_head_gives_the_output() -> None:
    assert "model.head: 'block1' gives" in refusal(Net(), "block1")
    assert "model.head: 'fc' gives [2, 4], which is not what" in refusal(After(lambda z: z.square()), "fc")
    cosine = OnFeature(F.normalize)
    assert Backbone(cosine.eval(), (12, 12), "fc").probe.classifiers == ("fc",)


def test_an_answer_that_differs_each_time_is_refused_or_accepted() -> None:
    random = OnFeature(lambda x: F.dropout(x, 0.3))
    assert "differently each time" in refusal(random) and "model.reading.allow_random: true" in refusal(random)
    assert Backbone(random, (12, 12), allow_random=True).probe.num_classes == 4
    module = OODModule(network=random, weights="none", reading=Reading(allow_random=True))
    assert module.backbone.probe.taps["last"].module == "block2"


def test_an_answer_that_depends_on_the_other_images_is_refused() -> None:
    assert "when the other images of the batch change" in refusal(OnFeature(lambda x: x - x.mean(0)))
    assert "one image alone" in refusal(OnFeature(lambda x: F.batch_norm(x, None, None, training=True)))


def test_outputs_of_another_form_are_named() -> None:
    assert "but a tuple; give" in refusal(After(lambda z: (z, z)))
    assert "but a dict; give" in refusal(After(lambda z: {"scores": z}))
    assert "returns one logit" in refusal(After(lambda z: z, 1))
    unpooled = timm.create_model("convnext_atto", num_classes=5, global_pool="")
    assert "but a tensor [2, 5," in refusal(unpooled, side=64)
    assert "cannot read images [2, 3, 12, 12]" in refusal(nn.Sequential(nn.Conv2d(1, 4, 3)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "mobilenetv3_small_100"])
def test_a_network_without_classes_is_not_taken_for_a_classifier_of_its_features(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    assert "no classifier that could be found" in refusal(network, side=64)
    network.num_classes = None  # as a network that does not say so
    if name != "vgg11":
        assert "no classifier that could be found" in refusal(network, side=64)


def test_grey_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"in_chans 1 .*leave out options.in_chans"):
        build("timm:resnet18", weights="none", options={"in_chans": 1})
    grey = Net()
    grey.default_cfg = {**Net.default_cfg, "input_size": (1, 12, 12)}
    with pytest.raises(InputError, match=r"input_size \(1, 12, 12\), but images are RGB"):
        build(network=grey, weights="none")


def test_auxiliary_outputs_in_training_are_refused() -> None:
    network = After(lambda z: z)
    network.function = lambda z: (z, z) if network.training else z
    module = OODModule(network=network, weights="none", finetune="all").train()
    batch: Any = type("Batch", (), {"image": torch.randn(2, 3, 12, 12), "label": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(InputError, match=r"auxiliary outputs while it is trained .*options.aux_logits: false"):
        module.training_step(batch, 0)
