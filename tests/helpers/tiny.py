"""A network and data sets of a second's work, for tests that go through the command line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.features import Features


class Net(nn.Module):
    """Two blocks, a global pool, a classifier; the same weights every time."""

    default_cfg: dict[str, Any] = {  # noqa: RUF012
        "input_size": (3, 12, 12),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }

    def __init__(self, num_classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.block1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
            self.fc = nn.Linear(16, num_classes)
            for norm in (self.block1[1], self.block2[1]):
                nn.init.normal_(norm.weight, 1, 0.3)
                nn.init.normal_(norm.bias, 0, 0.3)
            nn.init.normal_(self.fc.weight)

    blocks = ("block1", "block2")

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.block2(self.block1(images)).mean((2, 3)))


class Images(Dataset[tuple[Image.Image, int]]):
    """Random images with a tint for each class; ``shift`` moves them out of distribution."""

    def __init__(self, size: int = 40, classes: int = 4, shift: int = 0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, 120, (size, 12, 12, 3), generator=generator)
        self.targets = [i % classes for i in range(size)]
        self.classes = [f"class{k}" for k in range(classes)]
        tint = torch.tensor([[30 * k, 120 - 30 * k, 20 * k] for k in self.targets])[:, None, None]
        self.pixels = (noise + tint + shift).clamp(0, 255).to(torch.uint8).numpy()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.targets[index]


class Locked(Images):
    """The same images for those who know the secrets."""

    def __init__(self, token: str, url: str, size: int = 40, **arguments: int) -> None:
        if (token, url) != (os.environ["EXPECTED_FIRST"], os.environ["EXPECTED_SECOND"]):
            raise ValueError("the secrets are not those expected")
        super().__init__(size, **arguments)


class NanScore(LogitScore):
    """Not a number from the third image on."""

    def of_logits(self, logits: Tensor) -> Tensor:
        return logits.amax(1) * torch.where(torch.arange(len(logits), device=logits.device) > 1, torch.nan, 1.0)


class NanFit(Detector):
    """A fit that is not a number."""

    def update(self, features: Features) -> None:
        pass

    def compute(self) -> dict[str, Tensor]:
        return {"mean": torch.full((3,), torch.nan)}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return features.logits.amax(1)


class Slow(Detector):
    """A second per batch in the processes SLOW_RANKS; they leave their numbers in the folder SLOW_MARKS."""

    def _mark(self, job: str) -> None:
        folder, rank = os.environ.get("SLOW_MARKS"), os.environ.get("LOCAL_RANK", "0")
        if folder and rank in os.environ["SLOW_RANKS"]:
            mark = Path(folder) / f"{job}-{rank}"
            mark.with_suffix(".new").write_text(str(os.getpid()))
            mark.with_suffix(".new").replace(mark)
            time.sleep(1)

    def update(self, features: Features) -> None:
        self._mark("fit")

    def compute(self) -> dict[str, Tensor]:
        return {"one": torch.ones(2)}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        self._mark("test")
        return features.logits.amax(1)


def quiet_trainer(callbacks: list[L.Callback], **arguments: Any) -> L.Trainer:
    """A Trainer on the CPU as the command line makes it, without a logger or a progress bar."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
        **arguments,
    )
