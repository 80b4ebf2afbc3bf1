"""One flipped bit in a file gives the same numbers or one sentence; so does an edited fit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_ood.backbone.cache import FeatureCache
from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.react import ReAct
from lightning_ood.engine import run
from lightning_ood.engine.callback import OODCallback
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run_dir import RunFolder, read_checkpoint, with_checksums
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.networks.weights import load_weights
from lightning_ood.ops.checksums import changed, checksums, file_hash
from tests.helpers.tiny import Images, Net, quiet_trainer

TRIALS = 150


class Stops(L.Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise OSError("the machine went down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with last.ckpt and trained.ckpt, and one that stopped with training.ckpt."""
    made = RunFolder(tmp_path_factory.mktemp("run"))
    for callbacks, path in (([], made.path), ([Stops()], made.path / "torn")):
        L.seed_everything(0, verbose=False)
        module = OODModule(network=Net(), weights="none", finetune="all")
        data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=16)
        scoring = ScoringCallback({"mds": MDS(), "react": ReAct()})
        try:
            run.fit(quiet_trainer([scoring, *callbacks], max_epochs=2), module, data, scoring, RunFolder(path))
        except OSError:
            assert path.name == "torn"
    return made


def flip(path: Path, read: Callable[[], Any]) -> int:
    """Flips one bit at seeded places; returns how many trials were refused, and fails where one gives other numbers."""
    content, expected = path.read_bytes(), checksums(read())
    generator = random.Random(0)
    refused = 0
    for _ in range(TRIALS):
        damaged = bytearray(content)
        place = generator.randrange(len(damaged))
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            assert checksums(read()) == expected, f"byte {place}"
        except InputError as error:
            assert path.name in str(error)
            refused += 1
    path.write_bytes(content)
    assert checksums(read()) == expected
    return refused


@pytest.mark.parametrize("name", ["last.ckpt", "trained.ckpt", "torn/training.ckpt"])
def test_a_flipped_bit_in_a_checkpoint(folder: RunFolder, name: str) -> None:
    path = {"last.ckpt": folder.last, "trained.ckpt": folder.trained}.get(
        name, RunFolder(folder.path / "torn").training
    )
    assert flip(path, lambda: read_checkpoint(path)) > TRIALS // 3


def test_a_flipped_bit_in_a_cache_entry(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**9)
    parts = {"logits": torch.randn(5, 4), "map:a": torch.randn(5, 8, 3, 3)}
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    key = cache.key(torch.zeros(5, 3, 2, 2), "weights")
    cache.write(key, parts)
    (path,) = tmp_path.rglob("*.safetensors")

    def read() -> Any:
        found = cache.read(key, shapes, torch.device("cpu"))
        if found is None:
            raise InputError(f"{path} is a miss")
        return found

    assert flip(path, read) > TRIALS // 2
    other = cache.key(torch.ones(5, 3, 2, 2), "weights")
    (tmp_path / other[:2]).mkdir(exist_ok=True)
    (tmp_path / other[:2] / f"{other}.safetensors").write_bytes(path.read_bytes())
    assert cache.read(other, shapes, torch.device("cpu")) is None, "another batch's features"


@pytest.mark.parametrize("kind", ["zip", "legacy", "named"])
def test_a_flipped_bit_in_a_weight_file(tmp_path: Path, kind: str) -> None:
    """A zip file checks itself; an older file needs the hash in its name."""
    path = tmp_path / "weights.pth"
    torch.save(Net(seed=3).state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    if kind != "zip":
        path = path.rename(tmp_path / f"weights-{file_hash(path)[:8]}.pth")

    def read() -> Any:
        network = Net()
        load_weights(network, path)
        return network.state_dict()

    assert flip(path, read) > TRIALS // 3


def edited(folder: RunFolder, path: Path, edit: Callable[[dict[str, dict[str, torch.Tensor]]], object]) -> Path:
    content = torch.load(folder.last, weights_only=True)
    edit(content["callbacks"]["ScoringCallback"]["fitted"])
    torch.save(content, path)
    return path


def test_an_edited_fit_is_refused_by_name(folder: RunFolder, tmp_path: Path) -> None:
    fitted: Mapping[str, Any] = read_checkpoint(folder.last)["callbacks"]["ScoringCallback"]["fitted"]
    for detector, tensors in fitted.items():
        for key, value in tensors.items():
            edits: list[Callable[[Any], object]] = [lambda fits, d=detector, k=key: fits[d].pop(k)]
            if value.is_floating_point() and value.dim():
                edits.append(lambda fits, d=detector, k=key: fits[d][k][0].fill_(torch.nan))
                edits.append(lambda fits, d=detector, k=key: fits[d].update({k: fits[d][k][1:].clone()}))
            elif value.is_floating_point():
                edits.append(lambda fits, d=detector, k=key: fits[d][k].fill_(torch.inf))
            for edit in edits:
                path = edited(folder, tmp_path / "edited.ckpt", edit)
                with pytest.raises(InputError, match=rf"edited\.ckpt .*fitted/{detector}/{key}"):
                    read_checkpoint(path)


def test_a_checkpoint_without_checksums_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    content = read_checkpoint(folder.last)
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match="holds no checksums"):
        read_checkpoint(tmp_path / "old.ckpt")


def test_a_damaged_fit_is_made_again(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    whole = folder.last.read_bytes()
    folder.last.write_bytes(whole[: len(whole) // 2])
    module = OODModule(network=Net(), weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=16)
    scoring = ScoringCallback({"mds": MDS(), "react": ReAct()})
    before = {key: value.clone() for key, value in read_checkpoint(folder.trained)["state_dict"].items()}
    run.fit(quiet_trainer([scoring], max_epochs=2), module, data, scoring, folder)
    assert "Nothing is kept of an earlier fit" in capsys.readouterr().out
    saved = read_checkpoint(folder.last)["state_dict"]
    assert all(torch.equal(saved[key], value) for key, value in before.items())


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half"])
def test_a_damaged_training_is_made_again(
    folder: RunFolder, tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = RunFolder(shutil.copytree(folder.path, tmp_path / "run"))
    for path in (copy.trained, copy.last):
        path.write_bytes(damage)
    L.seed_everything(0, verbose=False)
    module = OODModule(network=Net(), weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=16)
    scoring = ScoringCallback({"mds": MDS(), "react": ReAct()})
    run.fit(quiet_trainer([scoring], max_epochs=2), module, data, scoring, copy)
    said = capsys.readouterr().out
    assert f"Training without an earlier checkpoint: {copy.trained} is damaged" in said
    assert not changed(read_checkpoint(copy.last)["callbacks"], checksums(read_checkpoint(folder.last)["callbacks"]))


ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no callbacks": lambda saved: saved.update(callbacks=None),
    "a list": lambda saved: saved.update(callbacks=[1]),
    "no hash": lambda saved: saved["backbone"].pop("hash"),
    "text for tensors": lambda saved: saved["callbacks"]["ScoringCallback"]["fitted"].update(mds={"mean": "x"}),
    "no spec": lambda saved: saved["callbacks"]["ScoringCallback"].update(spec=[]),
    "doubts": lambda saved: saved["callbacks"]["ScoringCallback"].update(doubts={"mds": {"spec": 1, "said": 3}}),
    "weights": lambda saved: saved.update(state_dict=7),
    "classes": lambda saved: saved.update(OODDataModule={"classes": "abc"}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_checkpoint_of_another_structure_is_refused(folder: RunFolder, tmp_path: Path, name: str) -> None:
    saved = read_checkpoint(folder.last)
    ODD[name](saved)
    torch.save(with_checksums(saved), tmp_path / "odd.ckpt")
    module = OODModule(network=Net(), weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=16)
    with pytest.raises(InputError, match=r"odd\.ckpt is no checkpoint that `fit` wrote"):
        run.load(tmp_path / "odd.ckpt", module, data, ScoringCallback({"mds": MDS(), "react": ReAct()}), "32-true")


def test_weights_of_another_network_are_refused(folder: RunFolder) -> None:
    module = OODModule(network=Net(num_classes=5), weights="none", finetune="all")
    data = OODDataModule(IDSets(Images(61), Images(23, seed=1)), batch_size=16)
    with pytest.raises(InputError, match=r"weights of another network than .*size mismatch .*run fit again"):
        run.load(folder.last, module, data, ScoringCallback({"mds": MDS(), "react": ReAct()}), "32-true")


def test_the_callback_checks_its_state_too() -> None:
    callback = OODCallback({"mds": MDS()})
    callback.suite.fitted = {"mds": {"mean": torch.randn(4, 3)}}
    state = callback.state_dict()
    OODCallback({"mds": MDS()}).load_state_dict(state)
    state["fitted"]["mds"]["mean"][0] = torch.nan
    with pytest.raises(InputError, match="mds/mean"):
        OODCallback({"mds": MDS()}).load_state_dict(state)
