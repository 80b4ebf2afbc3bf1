"""Networks of transformers, from folders that the test writes; skipped where transformers is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_ood.backbone import Backbone
from lightning_ood.commands.export import describe_network
from lightning_ood.deploy.spec import construct
from lightning_ood.engine.module import OODModule
from lightning_ood.errors import InputError
from lightning_ood.networks.build import build

SIZES = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32}


def saved(folder: Path, kind: str, config: str, **fields: Any) -> Path:
    """Writes a tiny model with random weights, and its image processor."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**SIZES, **fields))
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, resample=3)
    processor.save_pretrained(folder)
    return folder


def test_a_classifier(tmp_path: Path) -> None:
    folder = saved(tmp_path / "vit", "ViTForImageClassification", "ViTConfig", num_labels=5)
    built = build("hf:vit", root=tmp_path)
    preprocess = built.preprocess
    assert preprocess.size == (32, 32) and preprocess.mean == (0.4,) * 3 and preprocess.interpolation == "bicubic"
    assert str(built.source) == "hf:vit, pretrained"
    backbone = Backbone(built.network.requires_grad_(False), (32, 32))
    assert backbone.probe.linear and (backbone.probe.num_classes, backbone.probe.num_features) == (5, 16)
    assert len(backbone.probe.blocks) >= 2
    images = torch.randn(3, 3, 32, 32)
    import transformers

    expected = transformers.AutoModelForImageClassification.from_pretrained(folder)(pixel_values=images).logits
    torch.testing.assert_close(backbone(images).logits, expected.detach())


@pytest.mark.parametrize(("kind", "config"), [("ViTModel", "ViTConfig"), ("Dinov2Model", "Dinov2Config")])
def test_a_model_without_a_classifier_gets_a_head(tmp_path: Path, kind: str, config: str) -> None:
    saved(tmp_path / "own", kind, config)
    options = {"num_classes": 4}
    module = OODModule(name="hf:own", options=options, root=str(tmp_path), finetune="ridge")
    assert module.backbone.probe.num_classes == 4 and module.backbone.probe.num_features == 16
    again = construct(describe_network(module, {"name": "hf:own", "options": options}))
    again.load_state_dict(module.backbone.network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again.eval()(images), module(images))


def test_a_missing_model_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'lightning-ood\[hf\]'"):
        build("hf:own", root=tmp_path)
