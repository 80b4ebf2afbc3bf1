from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors.nac_me import NACME
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.selection import NACMECallback
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images, Net, quiet_trainer


class Watch(L.Callback):
    """Keeps the value, the mode of each part and the weights at the end of each epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.modes: list[list[bool]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.values.append(trainer.callback_metrics.get("val/nac_me", torch.tensor(-1.0)).item())
        self.modes.append([part.training for part in pl_module.modules()])
        self.weights.append({key: value.clone() for key, value in pl_module.state_dict().items()})


def train(folder: Path, *callbacks: L.Callback, val: bool = False) -> tuple[OODModule, OODDataModule, Watch]:
    L.seed_everything(0, verbose=False)
    network = Net()
    network.block1.append(torch.nn.Dropout(0.3))  # uses random numbers, in train mode alone
    module = OODModule(network=network, weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1), Images(19, seed=2) if val else None), batch_size=8)
    watch = Watch()
    trainer = quiet_trainer([*callbacks, watch], max_epochs=4, default_root_dir=folder)
    trainer.fit(module, datamodule=data)
    return module, data, watch


@pytest.mark.parametrize(("on", "val"), [("train", False), ("train", True), ("val", True)])
def test_the_value_is_the_metric_of_the_images_and_training_goes_on_as_without(
    tmp_path: Path, on: str, val: bool
) -> None:
    _, _, without = train(tmp_path, val=val)
    module, data, watch = train(tmp_path, NACMECallback(on, samples=5, alpha=20.0), val=val)
    assert len(set(watch.values)) > 1 and without.values == [-1] * 4
    assert watch.modes == without.modes and any(watch.modes[0])
    for one, other in zip(watch.weights, without.weights, strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())

    images = data.train_set if on == "train" else data.val_set
    assert images is not None
    module.eval()
    module.backbone.configure()
    for weights, value in zip(watch.weights, watch.values, strict=True):
        module.load_state_dict(weights)
        metric = NACME(16, samples=5, alpha=20.0)
        pixels = torch.stack([images[i].image for i in range(len(images))])
        metric.update(module.backbone(pixels, images.labels))
        assert value == pytest.approx(metric.compute().item(), rel=0.02)  # a state at an edge, by another batch size


def test_a_map_is_read_with_its_gradient(tmp_path: Path) -> None:
    _, _, watch = train(tmp_path, NACMECallback(layer="block1.0", samples=5, alpha=20.0))
    _, _, without = train(tmp_path)
    assert min(watch.values) > 0
    assert all(torch.equal(value, without.weights[-1][key]) for key, value in watch.weights[-1].items())


@pytest.mark.parametrize("val", [False, True])
def test_a_checkpoint_is_chosen_by_it(tmp_path: Path, val: bool) -> None:
    chosen = ModelCheckpoint(tmp_path / "best", "{epoch}", monitor="val/nac_me", mode="min")
    _, _, watch = train(tmp_path, chosen, NACMECallback(samples=5, alpha=20.0), val=val)
    best = min(range(4), key=watch.values.__getitem__)
    assert chosen.best_model_score == pytest.approx(watch.values[best])
    saved = torch.load(chosen.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, watch.weights[best][key]) for key, value in saved.items())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.id\.val"):
        train(tmp_path, NACMECallback(on="val"))
    with pytest.raises(InputError, match="no tap 'blok1'"):
        train(tmp_path, NACMECallback(layer="blok1"))
