"""Networks without a classifier: a linear head on them, text embeddings as the head, factory functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_ood.backbone import Backbone
from lightning_ood.commands.export import describe_network
from lightning_ood.deploy.spec import construct
from lightning_ood.detectors.max_cosine import MaxCosine
from lightning_ood.engine.module import OODModule
from lightning_ood.errors import InputError
from lightning_ood.features import Reads
from lightning_ood.networks.attach import WithHead
from lightning_ood.networks.build import build


class Tower(nn.Module):
    """Image embeddings ``[B, 8]``; untyped arguments, as in most research code."""

    default_cfg: dict[str, Any] = {"input_size": (3, 12, 12), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

    def __init__(self, width=8, seed=0):  # type: ignore[no-untyped-def]
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.blocks = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, width, 3, 2, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images).mean((2, 3))


IMAGES = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
TIMM = {"name": "timm:vit_tiny_patch16_224", "options": {"img_size": 32, "depth": 1, "num_classes": 0}}


def text(folder: Path, width: int = 8) -> Path:
    draw = torch.Generator().manual_seed(1)
    save_file(
        {"classes": torch.randn(4, width, generator=draw), "scale": torch.tensor(50.0)}, folder / "text.safetensors"
    )
    return folder / "text.safetensors"


def test_text_embeddings_are_the_head(tmp_path: Path) -> None:
    built = build(network=Tower(), weights="none", text="text.safetensors", root=text(tmp_path).parent)
    network = built.network
    assert isinstance(network, WithHead)
    classes = nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    cosines = nn.functional.normalize(network.tower(IMAGES), dim=1) @ classes.T
    torch.testing.assert_close(network(IMAGES), 50 * cosines)
    with Backbone(network.requires_grad_(False), (12, 12)) as backbone:
        backbone.configure(Reads(("last",)))
        features = backbone(IMAGES)
        assert backbone.probe.linear and features.maps["last"].shape == (5, 8, 3, 3)
        torch.testing.assert_close(MaxCosine().score(features, {}), cosines.amax(1))


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for width, says in ((7, "text embeddings of 7 numbers.* have 8"), (0, "cannot be read as a safetensors file")):
        file = text(tmp_path, width) if width else tmp_path / "missing.safetensors"
        with pytest.raises(InputError, match=says):
            build(network=Tower(), weights="none", text=str(file))
    save_file({"labels": torch.zeros(2, 8)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"no text embeddings 'classes'.*it holds labels"):
        build(network=Tower(), weights="none", text=str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match=r"returns a tensor \[2, 8, 3, 3\], not features"):
        build(network=Maps(), weights="none", options={"num_classes": 3})


class Maps(Tower):
    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images)


@pytest.mark.parametrize("zero_shot", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_an_export_describes_it(tmp_path: Path, zero_shot: bool, named: bool) -> None:
    """The description builds a network of the same parts, which takes the exported weights."""
    path = {"class_path": f"{__name__}.Tower", "init_args": {"seed": 3}}
    tower: dict[str, Any] = dict(TIMM) if named else {"network": Tower(seed=3)}
    if not (named or zero_shot):
        tower["options"] = {"num_classes": 4}
    chosen = {"text": str(text(tmp_path, 192 if named else 8))} if zero_shot else {}
    if named and not zero_shot:
        tower["options"] = {**TIMM["options"], "num_classes": 4}  # type: ignore[dict-item]
    module = OODModule(**tower, **chosen, weights="none")  # type: ignore[arg-type]
    described = describe_network(module, {**tower, **({} if named else {"network": path})})
    if "class_path" in described:
        again = construct(described, trust_code=True)
    else:
        again = build(described["name"], weights="none", options=construct(described["options"])).network
    again.load_state_dict(module.backbone.network.state_dict())
    images = torch.randn(2, 3, *module.preprocess.size)
    assert torch.equal(again.eval()(images), module(images))


def make(width, seed=0) -> nn.Module:  # type: ignore[no-untyped-def]
    return Tower(width, seed)


@pytest.mark.parametrize("kind", ["Tower", "make"])
def test_untyped_arguments_and_factory_functions_work_in_a_config(kind: str) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False)  # as Lightning does
    given = {"class_path": f"{__name__}.{kind}", "init_args": {"width": 6, "seed": 2}}
    network = parser.instantiate_classes(parser.parse_object({"network": given})).network
    again = construct(given, trust_code=True)
    assert torch.equal(network(IMAGES), again(IMAGES)) and network(IMAGES).shape == (5, 6)
