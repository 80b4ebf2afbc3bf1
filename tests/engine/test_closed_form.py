"""Heads in closed form: which weights change, what is taken over, and which detectors are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors import KNN, MSP, NAP, Energy, Fusion, ReAct
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run import fit, load
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images, Net, quiet_trainer


def parts(finetune: Any, **detectors: Detector) -> tuple[OODModule, OODDataModule, ScoringCallback]:
    network = Net()
    network.fc.weight.data.zero_()
    module = OODModule(network=network, weights="none", finetune=finetune)
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=8, num_workers=0)
    return module, data, ScoringCallback({**detectors} or {"knn": KNN(k=3), "msp": MSP()})


def run(folder: Path, finetune: Any, **detectors: Detector) -> tuple[OODModule, ScoringCallback]:
    module, data, scoring = parts(finetune, **detectors)
    fit(quiet_trainer([scoring], max_epochs=0), module, data, scoring, RunFolder(folder))
    return module, scoring


def images(size: int = 61, seed: int = 0) -> tuple[Tensor, Tensor]:
    pixels = torch.tensor(Images(size, seed=seed).pixels).permute(0, 3, 1, 2) / 255
    return (pixels - 0.5) / 0.5, torch.arange(size) % 4


@pytest.mark.parametrize("finetune", ["ridge", "means"])
def test_the_head_alone_changes_and_is_taken_over(
    tmp_path: Path, finetune: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _ = run(tmp_path, finetune)
    changed = {key for key, value in module.backbone.network.state_dict().items() if not torch.equal(value, OLD[key])}
    assert changed == {"fc.weight", "fc.bias"}
    pixels, labels = images(40, seed=1)
    assert (module(pixels).argmax(1) == labels).double().mean() > 0.9
    capsys.readouterr()
    again, _ = run(tmp_path, finetune)
    assert "Taking over the weights" in capsys.readouterr().out.replace("\n", " ")
    assert again.weights_hash() == module.weights_hash()
    other, data, scoring = parts(finetune)
    load(RunFolder(tmp_path).last, other, data, scoring, "32-true")
    assert other.weights_hash() == module.weights_hash()


OLD = {key: torch.zeros_like(value) if key == "fc.weight" else value for key, value in Net().state_dict().items()}


def test_means_are_the_nearest_class_mean(tmp_path: Path) -> None:
    module, _ = run(tmp_path, "means")
    pixels, labels = images()

    def pooled(pixels: Tensor) -> Tensor:
        network: Any = module.backbone.network
        return network.block2(network.block1(pixels)).mean((2, 3)).double()

    means = torch.stack([pooled(pixels)[labels == k].mean(0) for k in range(4)])
    fresh, _ = images(40, seed=1)
    assert torch.equal(module(fresh).argmax(1), torch.cdist(pooled(fresh), means).argmin(1))


def test_detectors_that_read_logits_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detectors = {"knn": KNN(k=3), "energy": Energy(), "react": ReAct(), "nap": NAP(), "nap_e": NAP(Energy())}
    alike = Fusion({"knn": KNN(k=3), "nap": NAP()})
    _, scoring = run(tmp_path / "means", "means", **detectors, alike=alike, mixed=Fusion())
    assert list(scoring.suite.detectors) == ["knn", "nap", "alike"]
    assert "no classifier was learned: energy, react, nap_e, mixed" in capsys.readouterr().out.replace("\n", " ")
    _, scoring = run(tmp_path / "ridge", "ridge", **detectors)
    assert list(scoring.suite.detectors) == list(detectors)
    with pytest.raises(InputError, match=r"msp: detectors that read logits.*ridge"):
        run(tmp_path / "none", "means", msp=MSP())


def test_a_head_of_another_kind_is_refused(tmp_path: Path) -> None:
    module, data, scoring = parts("ridge")
    network: Any = module.backbone.network
    network.fc = torch.nn.Linear(16, 4, bias=False)
    with pytest.raises(InputError, match=r"one linear layer with a bias.*write finetune: head"):
        fit(quiet_trainer([scoring]), module, data, scoring, RunFolder(tmp_path))
