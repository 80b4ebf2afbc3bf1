"""docs/own_code.md: its code blocks run as they stand, on a module and loaders of somebody's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_ood import evaluate
from tests.helpers.runs import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_code.md").read_text(), re.DOTALL)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers)


def loader(size: int, seed: int, scale: float = 1.0) -> DataLoader:
    draw = torch.Generator().manual_seed(seed)
    pixels = scale * torch.randn(size, 3, 32, 32, generator=draw)
    return DataLoader(TensorDataset(pixels, torch.arange(size) % 4), batch_size=16)


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader(64, 0)

    def test_dataloader(self) -> dict[str, DataLoader]:
        return {"id": loader(30, 1), "near": loader(20, 2, scale=0.1)}


class Classifier(nn.Module):
    """Answers as the networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(pixel_values)}


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_one_call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaders = {"train_loader": loader(64, 0), "id_loader": loader(30, 1), "ood_loader": loader(20, 2, scale=0.1)}
    names: dict[str, Any] = {"network": network(), **loaders}
    exec(block("result.save"), names)
    assert names["best"] in ("MSP", "Energy", "KNN", "NAP") and "digits" in capsys.readouterr().out
    assert (tmp_path / "runs" / "first" / "metrics.csv").is_file()


def test_a_model_of_transformers() -> None:
    def split(size: int, seed: int, scale: float = 1.0) -> list[dict[str, Any]]:
        pixels, labels = loader(size, seed, scale).dataset.tensors  # type: ignore[attr-defined]
        return [{"image": image, "label": int(label)} for image, label in zip(pixels, labels, strict=True)]

    def processor(images: list[Tensor], return_tensors: str) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack(images)}

    splits = {"train": split(64, 0), "test": split(30, 1), "other": split(20, 2, scale=0.1)}
    names: dict[str, Any] = {"model": Classifier(), "processor": processor, "splits": splits}
    exec(block("return_tensors"), names)
    plain = evaluate(
        names["model"].model,
        id_train=loader(64, 0),
        id_test=loader(30, 1),
        ood={"far/other": loader(20, 2, scale=0.1)},
        detectors=["MSP", "KNN"],
    )
    pd.testing.assert_frame_equal(names["result"].scores, plain.scores, rtol=1e-5, atol=1e-5)


def test_a_module_of_ones_own() -> None:
    names: dict[str, Any] = {"module": Module(), "data": Data()}
    exec(block("OODCallback("), names)
    assert 0 <= float(names["near"]) <= 1 and names["scores"].shape == (20, 2)


def test_a_loop_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    loaders = {"train_loader": loader(64, 0), "id_loader": loader(30, 1), "ood_loader": loader(20, 2, scale=0.1)}
    names: dict[str, Any] = {"network": network(), **loaders}
    exec(block("suite.compute()"), names)
    assert names["reasons"] == {}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["energy", "knn"]
    assert not any(part._forward_hooks for part in names["network"].modules())
