"""The callback in a LightningModule and a DataModule that know nothing of this package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_ood.backbone import Backbone
from lightning_ood.detectors import KNN, MDS, ODIN, Energy, FeatureNorm
from lightning_ood.engine.callback import OODCallback
from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import auroc, fpr95
from lightning_ood.suite import DetectorSuite
from tests.helpers.runs import ROOT
from tests.helpers.tiny import Images, Net

LENGTHS = {"id": 23, "near": 17, "far": 12}


class Pixels(Dataset):
    def __init__(self, size: int, shift: int = 0, seed: int = 0) -> None:
        images = Images(size, shift=shift, seed=seed)
        self.pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 127.5 - 1
        self.targets = images.targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], self.targets[index]


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Pixels(61), batch_size=8, shuffle=True)

    def test_dataloader(self) -> dict[str, DataLoader]:
        sets = {"id": Pixels(23, seed=1), "near": Pixels(17, 20, seed=2), "far": Pixels(12, 90, seed=3)}
        return {name: DataLoader(images, batch_size=8) for name, images in sets.items()}


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = Net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.classifier(batch[0]), batch[1])

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("loss", F.cross_entropy(self.classifier(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def detectors() -> dict[str, Any]:
    return {
        "energy": Energy(),
        "knn": KNN(k=3, bank_size=40),
        "mds": MDS(),
        "norm": FeatureNorm(),
        "odin": ODIN(10, 0.01),
    }


def trainer(callback: L.Callback, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", callbacks=[callback], enable_checkpointing=False, **quiet, **options)


def expected(network: nn.Module) -> dict[str, Tensor]:
    """Without a trainer: the suite on whole sets."""
    suite, train, data = DetectorSuite(detectors()), Pixels(61), Data()
    with Backbone(network, (12, 12)) as backbone, torch.inference_mode():
        labels = torch.tensor(train.targets)
        suite.setup(backbone.info(labels))
        backbone.configure(suite.reads("fit"))
        suite.update(backbone(train.pixels, labels))
        assert suite.compute() == {}
        backbone.configure(suite.reads("test"))
        sets = {name: loader.dataset.pixels for name, loader in data.test_dataloader().items()}
        return {name: suite.score(backbone(pixels)) for name, pixels in sets.items()}


def test_fit_is_left_alone_and_test_logs_every_set() -> None:
    module, callback = Module(), OODCallback(detectors(), network="classifier")
    runner = trainer(callback, max_epochs=1)
    runner.fit(module, datamodule=Data())
    assert callback.scores == {}
    runner.test(module, datamodule=Data(), verbose=False)
    found = {name: float(value) for name, value in runner.callback_metrics.items()}
    scores = expected(module.classifier.eval())
    for i, name in enumerate(detectors()):
        for ood in ("near", "far"):
            assert found[f"auroc/{name}/{ood}"] == pytest.approx(auroc(scores["id"][:, i], scores[ood][:, i]), abs=1e-6)
            assert found[f"fpr95/{name}/{ood}"] == pytest.approx(fpr95(scores["id"][:, i], scores[ood][:, i]), abs=1e-6)
    for name, of_set in scores.items():
        torch.testing.assert_close(callback.scores[name], of_set, rtol=1e-4, atol=1e-4)
    assert "loss/dataloader_idx_0" in found, "the module's own test runs too"


def test_validate_of_several_sets_logs_the_same() -> None:
    class Both(Data):
        def val_dataloader(self) -> dict[str, DataLoader]:
            return self.test_dataloader()

    class Own(Module):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.classifier(batch[0])

    module, callback = Own(), OODCallback({"energy": Energy(), "knn": KNN(3)}, network="classifier")
    runner = trainer(callback)
    runner.test(module, datamodule=Data(), verbose=False)
    tested = {name: value for name, value in runner.callback_metrics.items() if name.startswith(("auroc/", "fpr95/"))}
    runner.validate(module, datamodule=Both(), verbose=False)
    assert len(tested) == 8
    assert {name: runner.callback_metrics[name] for name in tested} == tested
    alone = OODCallback({"energy": Energy()}, network="classifier")
    trainer(alone).validate(module, Data().test_dataloader()["id"], verbose=False)
    assert alone.scores == {}, "a validation of one set is left alone"


def test_nothing_is_left_on_the_network() -> None:
    module = Module()
    trainer(OODCallback(detectors(), network="classifier")).test(module, datamodule=Data(), verbose=False)
    for part in module.modules():
        assert not part._forward_hooks and not part._forward_pre_hooks


def test_a_module_that_returns_features_costs_no_forward_more() -> None:
    class Own(Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone(self.classifier, (12, 12))

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # type: ignore[override]
            return self.backbone(*batch)

    module, seen = Own(), []
    callback = OODCallback({"energy": Energy(), "knn": KNN(3)}, network="backbone")
    runner = trainer(callback)
    runner.test(module, datamodule=Data(), verbose=False)  # fits
    handle = module.classifier.fc.register_forward_hook(lambda *args: seen.append(len(args[1][0])))
    runner.test(module, datamodule=Data(), verbose=False)
    handle.remove()
    assert sum(seen[:2]) and sum(LENGTHS.values()) <= sum(seen) <= sum(LENGTHS.values()) + 4, "a probe of two images"


def test_a_checkpoint_of_ones_own_keeps_the_fit(tmp_path: Path) -> None:
    module, callback = Module(), OODCallback({"knn": KNN(3)}, network="classifier")
    runner = trainer(callback)
    runner.test(module, datamodule=Data(), verbose=False)
    again = OODCallback({"knn": KNN(3)}, network="classifier")
    again.load_state_dict(callback.state_dict())
    assert list(again.suite.fitted) == ["knn"]
    trainer(again).test(module, datamodule=Data(), verbose=False)
    assert torch.equal(again.scores["far"], callback.scores["far"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"network": "model"}, "'model'.*classifier"), ({"network": "classifier", "sets": ["id"]}, "3 loaders")],
)
def test_refusals(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        trainer(OODCallback({"energy": Energy()}, **arguments)).test(Module(), datamodule=Data(), verbose=False)


SCRIPT = """
import torch
from tests.engine.test_callback import Data, Module, OODCallback, detectors, trainer

callback = OODCallback(detectors(), network="classifier")
runner = trainer(callback, devices=2, strategy="ddp")
runner.test(Module(), datamodule=Data(), verbose=False)
if runner.is_global_zero:
    torch.save(callback.scores, "scores.pt")
"""


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    """Lightning's own sampler repeats an image of the sets of 23 and 17: it counts once."""
    (tmp_path / "own.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    scores = torch.load(tmp_path / "scores.pt", weights_only=True)
    for name, of_set in expected(Module().classifier.eval()).items():
        torch.testing.assert_close(scores[name], of_set, rtol=1e-4, atol=1e-4)
