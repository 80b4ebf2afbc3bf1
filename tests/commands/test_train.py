"""A network is trained from the command line: a death in between changes nothing, and what cannot work is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import nn

from tests.helpers.runs import Run, images
from tests.helpers.tiny import Images, Net

DIES_AT = 3


class DropNet(Net):
    """Draws random numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        self.block1.append(nn.Dropout(0.3))


class Renamed(Images):
    """The same classes in another order."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed=seed)
        self.classes.reverse()


class Dies(L.Callback):
    """Kills its process when the epoch ``DIES_AT`` begins, where the environment says so."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == DIES_AT and os.environ.get("DIES") == str(trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)


def training(config: Path, val: int = 0, callbacks: tuple[dict[str, Any], ...] = ()) -> Path:
    """Makes the config one that trains its network for six epochs with all that is random in training."""
    content = yaml.safe_load(config.read_text())
    content["model"] |= {"network": {"class_path": "tests.commands.test_train.DropNet"}, "finetune": "all"}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2, "momentum": 0.9}}
    content["model"]["training"] = {"optimizer": optimizer}
    content["data"]["augment"] = ["crop", "flip"]
    if val:
        content["data"]["id"]["val"] = images(val, seed=5)
    content["trainer"] |= {"max_epochs": 6, "enable_checkpointing": True}
    content["trainer"]["callbacks"] = [{"class_path": "tests.commands.test_train.Dies"}, *callbacks]
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return config


BEST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"monitor": "val/accuracy", "mode": "max", "filename": "best"},
}
TWO = ("--trainer.devices", 2, "--trainer.strategy", "ddp")


@pytest.mark.slow
def test_a_training_that_died_goes_on_as_if_it_had_not(config: Path, train: Run, tmp_path: Path) -> None:
    where = ("--config", training(config, 19, (BEST,)), "--trainer.default_root_dir")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    done = train("fit", *where, whole, *TWO)
    assert done.returncode == 0, done.stderr
    died = train("fit", *where, torn, *TWO, DIES="0")
    assert died.returncode == -signal.SIGKILL
    alone = train("fit", *where, torn)
    assert alone.returncode == 2 and "training on 2 processes, now there is 1" in alone.stderr

    again = train("fit", *where, torn, *TWO)
    assert again.returncode == 0, again.stderr
    assert f"Going on with the training after epoch {DIES_AT} of 6 ({torn}/checkpoints/training.ckpt)" in again.stdout
    one, two = (torch.load(run / "checkpoints" / "trained.ckpt", weights_only=True) for run in (whole, torn))
    assert one["training_config_hash"] == two["training_config_hash"] and set(one["state_dict"]) == set(
        two["state_dict"]
    )
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert not (torn / "checkpoints" / "training.ckpt").exists()


@pytest.mark.slow
def test_fewer_validation_images_than_processes_are_refused(config: Path, train: Run) -> None:
    """A process without a validation image would leave the others waiting for its count."""
    three = train("fit", "--config", training(config, val=2), "--trainer.devices", 3, "--trainer.strategy", "ddp")
    assert three.returncode != 0 and "data.id.val: Images has 2 images, fewer than the 3 processes" in three.stderr


def test_other_classes_at_test_are_refused(config: Path, train: Run, tmp_path: Path) -> None:
    """A label means what it meant in the fit, and a fit that has nothing to fit says so too."""
    names = {"class_path": "tests.commands.test_train.Renamed", "init_args": {"size": 23, "seed": 1}}
    content = yaml.safe_load(config.read_text())
    content["scoring"]["detectors"] = {"msp": content["scoring"]["detectors"]["msp"]}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    assert train("fit", "--config", config).returncode == 0
    assert train("test", "--config", config).returncode == 0
    content["data"]["id"]["test"] = names
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    refused = train("test", "--config", config)
    assert refused.returncode == 2, refused.stderr
    assert "data.id.test: the classes of Renamed are not those of the training images" in refused.stderr
    assert "the same names in another order" in refused.stderr
