"""``last`` is the map whose tokens are pooled into the penultimate feature, however they are pooled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.features import Reads
from tools.survey import Model
from tools.zoo import ATTENTION_POOLED, MODELS

POOLED = [*ATTENTION_POOLED, *(model for model in MODELS if "_map" in model.name)]


@pytest.mark.parametrize("model", POOLED, ids=lambda model: model.name)
def test_attention_pooling_reads_the_last_map(model: Model) -> None:
    network: Any = model.build_small()
    entering: list[Tensor] = []
    network.attn_pool.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    backbone = Backbone(network, (model.side, model.side))
    blocks = backbone.info().blocks
    assert blocks == ("blocks.0", "blocks.1", "last")
    backbone.configure(Reads(blocks))
    features = backbone(backbone.example(3))
    tokens = features.maps["last"].movedim(1, 2)
    torch.testing.assert_close(tokens[:, -entering[-1].shape[1] :], entering[-1])
    assert tokens.shape == (3, features.maps["blocks.1"].shape[2], 64)


class Block(nn.Module):
    """A residual block that returns a tuple, and whose bias is made from positions alone."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.bias = nn.ModuleList([nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, width))])
        self.mix = nn.Linear(width, width)
        self.register_buffer("table", torch.randn(1, tokens, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        bias: Tensor = self.bias[0](self.table)
        return x + self.mix(x + bias).relu(), None


class SequencePooled(nn.Module):
    """Tokens averaged with weights that a layer computes from them, as in CCT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.layers = nn.ModuleList([Block(16, 16) for _ in range(3)])
        self.norm = nn.LayerNorm(16)
        self.weights = nn.Linear(16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).mT  # [B, N, D]
        for layer in self.layers:
            x, _ = layer(x)
        x = self.norm(x)
        return self.fc((self.weights(x).softmax(1) * x).sum(1))


def test_the_weights_of_a_pooling_and_a_position_bias_are_no_maps() -> None:
    torch.manual_seed(0)
    backbone = Backbone(SequencePooled().eval(), (16, 16))
    probe = backbone.probe
    assert probe.taps["last"].module == "norm" and probe.taps["last"].shape == (16, 16)
    assert probe.blocks == ("layers.0", "layers.1", "layers.2", "last")
    assert not any("bias" in name for name in probe.taps)
    backbone.configure(Reads(probe.blocks, gradients=("layers.2",)))
    features = backbone(torch.randn(2, 3, 16, 16))
    expected = backbone.network.norm(features.maps["layers.2"].mT).mT  # type: ignore[operator]
    torch.testing.assert_close(features.maps["last"], expected.detach())
    assert features.gradients["layers.2"].abs().sum() > 0
