"""The fit pass runs on the network that is saved, whatever callbacks a training has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, EMAWeightAveraging, ModelCheckpoint
from torch import nn

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors.mds import MDS
from lightning_ood.engine import run
from lightning_ood.engine.module import OODModule, Training
from lightning_ood.engine.run_dir import RunFolder, read_checkpoint
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.ops.checksums import changed, file_hash
from tests.helpers.tiny import Images, Net, quiet_trainer


class Counts(Net):
    """Counts its calls in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(images)


class Loud(L.Callback):
    """Says in which loops it acts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append(str(trainer.state.fn))


def fit(folder: Path, *callbacks: L.Callback, network: nn.Module | None = None, finetune: Any = "all") -> Any:
    """A whole ``fit``; returns the fitted tensors of MDS, the module and the content of last.ckpt."""
    L.seed_everything(0, verbose=False)
    training = Training(lambda parameters: torch.optim.SGD(parameters, lr=0.2, momentum=0.9))
    module = OODModule(network=network or Net(), weights="none", finetune=finetune, training=training)
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1), Images(19, seed=2)), batch_size=8)
    scoring = ScoringCallback({"mds": MDS()})
    trainer = quiet_trainer([scoring, *callbacks], max_epochs=4)
    last = run.fit(trainer, module, data, scoring, RunFolder(folder))
    return scoring.suite.fitted["mds"], module, read_checkpoint(last)


def early() -> ModelCheckpoint:
    """Chooses an epoch whose weights are far from the average over the whole training."""
    return ModelCheckpoint(monitor="val/accuracy", mode="min", filename="best")


def test_the_pass_runs_on_the_weights_that_are_saved(tmp_path: Path) -> None:
    loud = Loud()
    fitted, module, saved = fit(tmp_path / "run", early(), EMAWeightAveraging(decay=0.8), loud)
    assert saved["backbone"]["hash"] == module.weights_hash()
    mine = module.state_dict()
    assert mine and all(torch.equal(value, mine[key]) for key, value in saved["state_dict"].items())
    chosen = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(value, mine[key]) for key, value in chosen.items())
    assert loud.seen and "validate" not in " ".join(loud.seen), "it acts while the network is trained, not in the pass"
    again, _, _ = fit(tmp_path / "again", network=module.backbone.network, finetune="none")
    assert all(torch.equal(value, again[key]) for key, value in fitted.items()), "what the saved network gives"


def test_the_batches_of_the_pass_are_those_that_were_asked_for(tmp_path: Path) -> None:
    """BatchSizeFinder would run trial batches in the validate loop, which the detectors would see as images."""
    plain, _, _ = fit(tmp_path / "plain", finetune="none")
    fitted, _, _ = fit(tmp_path / "finder", BatchSizeFinder(max_trials=2), finetune="none")
    assert all(torch.equal(value, plain[key]) for key, value in fitted.items())


def test_a_network_that_changes_in_the_pass_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights or buffers changed during the fit pass"):
        fit(tmp_path, network=Counts(), finetune="none")
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_the_weight_file_is_recorded(tmp_path: Path) -> None:
    torch.save(Net(seed=4).state_dict(), tmp_path / "net.pth")
    module = OODModule(network=Net(), weights=str(tmp_path / "net.pth"))
    checkpoint: dict[str, Any] = {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["backbone"]["file_sha256"] == file_hash(tmp_path / "net.pth")
    assert (
        changed({key: value for key, value in checkpoint.items() if key != "checksums"}, checkpoint["checksums"]) == []
    )
