"""Bad input through the command line: a clear error, early, and nothing lost."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from lightning_ood.commands.cli import main
from tests.helpers.runs import CORE, DETECTORS, Run


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command line says when it refuses, in one message and without a traceback."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert "usage:" not in said
    return said[said.index("error:") :]


CASES = {
    "model": (
        ["--model.network", "null", "--model.name", "timm:resnet1"],
        "no network is called 'timm:resnet1'.*resnet18",
    ),
    "tap": (["--scoring.detectors.nap.init_args.tap", "blok2"], "detector 'nap'.*'blok2'.*block2"),
    "detector": (["--scoring.detectors.x", "lightning_ood.detectors.nape.NAPE"], "nape"),
    "argument": (["--scoring.detectors.react.init_args.percentil", "3"], "percentil"),
    "key": (["--modle.name", "x"], "modle"),
    "name": (["--scoring.detectors.path", "lightning_ood.detectors.msp.MSP"], "'path' is a column"),
    "classes": (["--model.network.init_args.num_classes", "5"], "5 logits and the ID set 4 classes.*class0"),
    "folder": (["--data.id.train", "nowhere"], "data.id.train: .*nowhere: no such folder.*--data.root"),
    "weights": (["--model.weights", "no.pth"], r"no weight file .*no\.pth"),
    "pretrained": (
        ["--model.network", "null", "--model.name", "timm:resnet18", "--model.weights", "pretrained"],
        "no pretrained weights for timm:resnet18.*weights: FILE",
    ),
    "headless": (
        ["--model.network", "null", "--model.name", "timm:vit_tiny_patch16_224", "--model.options.num_classes", "0"],
        "no classifier",
    ),
    "attention": (["--scoring.detectors.nap.init_args.form", "attention"], "detector 'nap'.*class token"),
    "shortened": (["--trainer.limit_val_batches", "2"], "limit_val_batches 2.*write data.limit: 200"),
    "spawn": (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "--trainer.strategy ddp"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_any_image(
    case: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    said = refuse(capsys, "fit", "--config", config, *arguments)
    assert time.monotonic() - started < 30
    assert re.search(message, said, re.DOTALL), said
    assert not (tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt").exists()


def folder(path: Path, classes: int = 4, each: int = 6) -> Path:
    generator = torch.Generator().manual_seed(0)
    for k in range(classes):
        (path / f"class{k}").mkdir(parents=True)
        for i in range(each):
            pixels = torch.randint(0, 255, (14, 13, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(path / f"class{k}" / f"{i}.png")
    return path


def test_a_class_without_images(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_set = folder(tmp_path / "train")
    for file in (train_set / "class2").iterdir():
        file.unlink()
    said = refuse(capsys, "fit", "--config", config, "--data.id.train", train_set)
    assert "data.id.train" in said and "class2" in said


def test_empty_and_one_image_sets(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    none = [part for name in CORE[3:] for part in (f"--scoring.detectors.{name}", "null")]
    said = refuse(capsys, "test", "--config", config, *none, "--data.ood.far/white", tmp_path / "empty")
    assert "data.ood.far/white" in said and "empty" in said
    one = folder(tmp_path / "one", classes=1, each=1)
    said = refuse(capsys, "test", "--config", config, *none, "--data.ood.far/white", one)
    assert "data.ood.far/white" in said and "one image" in said


def test_an_unreadable_image_is_named_or_counted(config: Path, train: Run, tmp_path: Path) -> None:
    train_set = folder(tmp_path / "train")
    broken = train_set / "class1" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    stopped = train("fit", "--config", config, "--data.id.train", train_set)
    assert stopped.returncode != 0
    assert "class1/3.png" in stopped.stderr and "--data.bad_images skip" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    skipped = train("fit", "--config", config, "--data.id.train", train_set, "--data.bad_images", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "Fitted on 23 images; 1 unreadable" in skipped.stdout
    (tmp_path / "none").mkdir()
    for i in range(2):
        (tmp_path / "none" / f"{i}.png").write_bytes(broken.read_bytes())
    unread = ("--data.id.train", train_set, "--data.bad_images", "skip", "--data.ood.far/white", tmp_path / "none")
    tested = train("test", "--config", config, *unread)
    assert tested.returncode == 2 and "white: none of its 2 images could be read" in tested.stderr
    assert set(pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")["dataset"]) == {"pale", "mean"}, "not lost"


def test_images_of_every_mode_and_size(config: Path, train: Run, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, mode in enumerate(("L", "P", "CMYK", "RGBA", "LA", "1", "RGB")):
        pixels = torch.randint(0, 255, (9 + 5 * i, 30 - 2 * i, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).convert(mode).save(mixed / (f"{mode}.tif" if mode == "CMYK" else f"{mode}.png"))
    deep = torch.randint(0, 65535, (16, 16), dtype=torch.int32, generator=generator).to(torch.uint16)
    Image.fromarray(deep.numpy()).save(mixed / "deep.png")
    none = [part for name in CORE[3:] for part in (f"--scoring.detectors.{name}", "null")]
    tested = train("test", "--config", config, *none, "--data.ood.far/white", mixed)
    assert tested.returncode == 0, tested.stderr
    scores = pd.read_parquet(tmp_path / "runs" / "tiny" / "scores.parquet")
    assert (scores["dataset"] == "white").sum() == 8


def test_a_score_that_is_not_finite_is_named_and_the_others_are_on_disk(
    config: Path, train: Run, tmp_path: Path
) -> None:
    none = [part for name in CORE[3:] for part in (f"--scoring.detectors.{name}", "null")]
    tested = train("test", "--config", config, *none, "--scoring.detectors.broken", "tests.helpers.tiny.NanScore")
    assert tested.returncode == 2
    assert "detector 'broken' on tints, image 2: nan" in tested.stderr
    scores = pd.read_parquet(tmp_path / "runs" / "tiny" / "scores.parquet")
    metrics = pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")
    assert set(metrics["detector"]) == {"msp", "maxlogit", "energy"} and "broken" not in scores


def test_a_fit_that_fails_is_named_and_the_others_are_saved(config: Path, train: Run, tmp_path: Path) -> None:
    far = ("--scoring.detectors.far", DETECTORS / "knn.yaml", "--scoring.detectors.far.init_args.k", 62)
    fitted = train("fit", "--config", config, "--scoring.detectors.broken", "tests.helpers.tiny.NanFit", *far)
    assert fitted.returncode == 2 and "detector 'broken': the fitted tensor 'mean' contains NaN" in fitted.stderr
    assert "detector 'far': k=62 asks for a neighbour" in fitted.stderr and "last.ckpt" in fitted.stderr
    saved = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    assert set(saved["callbacks"]["ScoringCallback"]["fitted"]) == {"react", "dice", "line", "nac", "feature_norm"}
    tested = train("test", "--config", config)
    assert tested.returncode == 0, "the others can be tested"


def test_a_training_set_without_labels_refuses_who_needs_them_and_fits_the_others(
    config: Path, train: Run, tmp_path: Path
) -> None:
    dataset = ("--data.id.train.class_path", "tests.helpers.usersets.Unlabelled")
    more = ("--scoring.detectors.mds", DETECTORS / "mds.yaml", "--scoring.detectors.knn", DETECTORS / "knn.yaml")
    fitted = train("fit", "--config", config, *dataset, *more)
    assert fitted.returncode == 2 and "Traceback" not in fitted.stderr
    for name in ("line", "mds"):
        assert f"detector '{name}' needs the labels of the training images, and they have none" in fitted.stderr
    assert "Fitted on 61 images" in fitted.stdout
    saved = torch.load(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    names = set(saved["callbacks"]["ScoringCallback"]["fitted"])
    assert names >= {"react", "dice", "feature_norm", "knn"} and not names & {"line", "mds"}
    left_out = ("--scoring.detectors.line", "null", "--scoring.detectors.mds", "null")
    tested = train("test", "--config", config, *dataset, *more, *left_out)
    assert tested.returncode == 0, tested.stderr
    only = [part for name in CORE if name != "line" for part in (f"--scoring.detectors.{name}", "null")]
    alone = train("fit", "--config", config, *dataset, *only, "--overwrite")
    assert alone.returncode == 2 and "data.id.train: detector 'line' needs the labels" in alone.stderr
