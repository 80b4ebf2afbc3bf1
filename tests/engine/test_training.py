"""Training in one process: what chooses the epoch, and what goes on after a death."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors.msp import MSP
from lightning_ood.engine.module import OODModule, Training
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.engine.selection import NACMECallback
from lightning_ood.engine.training import train
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images, Net, quiet_trainer


class Dies(L.Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 3:
            raise OSError("the machine went down")


def attempt(
    folder: RunFolder,
    *callbacks: L.Callback,
    training_config_hash: str = "a",
    overwrite: bool = False,
    val: bool = False,
    workers: int = 0,
    finetune: str = "all",
) -> dict[str, torch.Tensor]:
    """One ``fit`` up to the weights that it trains."""
    L.seed_everything(0, verbose=False)
    network = Net()
    network.block1.append(torch.nn.Dropout(0.3))
    module = OODModule(
        network=network,
        weights="none",
        finetune=finetune,  # type: ignore[arg-type]
        training=Training(lambda parameters: torch.optim.SGD(parameters, lr=0.2, momentum=0.9)),
    )
    sets = IDSets(Images(61), Images(23, seed=1), Images(19, seed=2) if val else None)
    data = OODDataModule(sets, batch_size=8, augment=["crop", "flip"], num_workers=workers)
    trainer = quiet_trainer([ScoringCallback({"msp": MSP()}), *callbacks], max_epochs=6)
    train(trainer, module, data, folder, training_config_hash, overwrite)
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[key]) for key, value in one.items())


def best_nac_me() -> tuple[L.Callback, ...]:
    return NACMECallback(samples=5, alpha=20.0), ModelCheckpoint(monitor="val/nac_me", mode="min", filename="best")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_died_gives_the_same_weights(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout, crops, an epoch chosen by NAC-ME; the best one is before the death or after."""
    whole = attempt(RunFolder(tmp_path / "whole"), *best_nac_me(), workers=workers)
    torn = RunFolder(tmp_path / "torn")
    with pytest.raises(OSError, match="went down"):
        attempt(torn, *best_nac_me(), Dies(), workers=workers)
    assert torn.training.is_file() and not torn.trained.exists()
    capsys.readouterr()
    assert same(attempt(torn, *best_nac_me(), workers=workers), whole)
    assert f"after epoch 3 of 6 ({torn.training})" in capsys.readouterr().out.replace("\n", "")
    assert torn.trained.is_file() and not torn.training.exists()


def test_what_the_folder_holds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(OSError, match="went down"):
        attempt(folder, Dies())
    with pytest.raises(InputError, match="holds an unfinished training of another model"):
        attempt(folder, training_config_hash="b")
    other = attempt(folder, training_config_hash="b", overwrite=True)
    assert same(attempt(folder, Dies(), training_config_hash="b"), other), "taken over, not trained again"
    with pytest.raises(OSError, match="went down"):
        attempt(folder, Dies(), training_config_hash="b", overwrite=True)
    assert same(attempt(folder, training_config_hash="b"), other) and not folder.training.exists(), (
        "the newer one goes on"
    )
    with pytest.raises(InputError, match="holds weights of another model"):
        attempt(folder)


def test_the_classifier_alone_is_trained_and_goes_on(tmp_path: Path) -> None:
    whole = attempt(RunFolder(tmp_path / "whole"), finetune="head")
    folder = RunFolder(tmp_path / "torn")
    with pytest.raises(OSError, match="went down"):
        attempt(folder, Dies(), finetune="head")
    assert same(attempt(folder, finetune="head"), whole)
    frozen = {f"backbone.network.{key}": value for key, value in Net().state_dict().items()}
    changed = {key for key, value in whole.items() if key in frozen and not torch.equal(value, frozen[key])}
    assert changed == {"backbone.network.fc.weight", "backbone.network.fc.bias"}


def test_the_best_by_accuracy_needs_images_to_judge_on(tmp_path: Path) -> None:
    def best() -> ModelCheckpoint:
        return ModelCheckpoint(monitor="val/accuracy", mode="max", filename="best")

    with pytest.raises(InputError, match=r"give data\.id\.val"):
        attempt(RunFolder(tmp_path / "none"), best())
    weights = attempt(RunFolder(tmp_path / "some"), best(), val=True)
    saved = torch.load(tmp_path / "some" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert same(weights, saved)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 7.0), ("label_smoothing", -0.1), ("warmup", 1.5)])
def test_shares_of_a_training_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"training.{name}={value} is no share"):
        Training(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-0.1, 0.0, float("nan")])
def test_a_learning_rate_that_trains_nothing_is_refused(rate: float) -> None:
    training = Training(lambda parameters: torch.optim.SGD(parameters, lr=rate))
    module = OODModule(network=Net(), weights="none", finetune="all", training=training)
    with pytest.raises(InputError, match=r"training.optimizer: .*learning rate"):
        module.configure_optimizers()


def test_no_epoch_is_refused(tmp_path: Path) -> None:
    module = OODModule(network=Net(), weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(8), Images(8, seed=1)), batch_size=8, num_workers=0)
    trainer = quiet_trainer([ScoringCallback({"msp": MSP()})], max_epochs=0)
    with pytest.raises(InputError, match="max_epochs=0 trains nothing"):
        train(trainer, module, data, RunFolder(tmp_path), "a", False)
