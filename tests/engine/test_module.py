"""The module: which part of the network trains, in which mode, and what stays out of its checkpoints."""

from __future__ import annotations

import pytest
import torch

from lightning_ood.engine.module import OODModule, Reading
from lightning_ood.errors import InputError
from lightning_ood.features import Reads
from tests.helpers.tiny import Net


@pytest.mark.parametrize(
    ("finetune", "trained"), [("none", set()), ("head", {"fc"}), ("all", {"fc", "block1", "block2"})]
)
def test_what_trains(finetune: str, trained: set[str]) -> None:
    module = OODModule(network=Net(), weights="none", finetune=finetune)  # type: ignore[arg-type]
    network = module.backbone.network
    found = {name.partition(".")[0] for name, value in network.named_parameters() if value.requires_grad}
    assert found == trained
    module.train()
    assert module.training
    assert {name for name, part in network.named_children() if part.training} == trained
    norm = network.block1[1]  # type: ignore[index]
    before = norm.running_mean.clone()
    module(torch.randn(8, 3, 12, 12))
    assert torch.equal(norm.running_mean, before) == (finetune != "all"), "a frozen batch norm keeps its statistics"
    module.eval()
    assert not any(part.training for part in network.modules())


@pytest.mark.parametrize("finetune", ["none", "head"])
def test_frozen_weights_stay_out_of_a_checkpoint(finetune: str) -> None:
    module = OODModule(network=Net(), weights="none", finetune=finetune)  # type: ignore[arg-type]
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert (checkpoint["state_dict"] == {}) == (finetune == "none")
    assert checkpoint["backbone"]["hash"] == module.weights_hash()
    other = OODModule(network=Net(seed=1), weights="none")
    assert other.weights_hash() != module.weights_hash()


def test_one_forward_reads_what_was_planned() -> None:
    from lightning_ood.data.sets import Batch

    module = OODModule(network=Net(), weights="none")
    module.backbone.configure(Reads(("block1",)))
    images = torch.randn(5, 3, 12, 12)
    batch = Batch(images, torch.arange(5), torch.arange(10, 15), torch.empty(0, dtype=torch.int64))
    features = module.features(batch)
    torch.testing.assert_close(features.logits, module(images))
    assert features.maps["block1"].shape == (5, 8, 12, 12) and torch.equal(features.index, batch.index)  # type: ignore


def test_how_it_is_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    module = OODModule(network=Net(), weights="none", reading=Reading(cache=str(tmp_path / "c"), channels_last=True))
    assert module.backbone.cache is not None and module.backbone.layout is torch.channels_last


def test_a_name_and_a_network_are_refused() -> None:
    with pytest.raises(InputError, match="either the name of a network or a network"):
        OODModule(name="timm:resnet18", network=Net(), weights="none")
