"""Accuracies that timm publishes."""

import timm

from lightning_ood.networks.published import timm_accuracy
from lightning_ood.networks.source import Source


def test_the_published_accuracy_is_that_of_the_weights_at_the_size_of_the_input() -> None:
    network = timm.create_model("resnet50.tv_in1k", num_classes=2)
    library, square = Source("timm", "resnet50.tv_in1k", "library", "pretrained"), (224, 224)
    assert timm_accuracy(library, network, square) == 76.13
    assert timm_accuracy(library, network, (288, 288)) is None
    file = Source("timm", "tf_efficientnet_lite0", "file", "checkpoints/tf_efficientnet_lite0.in1k.safetensors")
    assert timm_accuracy(file, network, square) == 74.83
    assert timm_accuracy(Source("timm", "resnet50", "file", "mine.pth"), network, square) is None
    assert timm_accuracy(Source("timm", "resnet50", "random"), network, square) is None
    assert timm_accuracy(Source("torchvision", "resnet50", "library"), network, square) is None
