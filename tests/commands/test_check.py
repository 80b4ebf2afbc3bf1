"""`check` through the command line: what is good is green, each broken thing is named, and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from lightning_ood.commands.cli import main
from lightning_ood.ops import checksums
from tests.commands.test_bad_input import folder, refuse
from tests.helpers.runs import CORE, ROOT, Run
from tests.helpers.tiny import Net

Check = Callable[..., dict[str, Any]]


@pytest.fixture
def check(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Calls ``check --json`` on the tiny run and gives what it found; nothing may have been written."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, code: int, config: Path = config) -> dict[str, Any]:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            main(["check", "--config", str(config), "--json", *map(str, arguments)])
        found = json.loads(capsys.readouterr().out)
        assert stop.value.code == code and found["ok"] == (code == 0), found["findings"]
        assert sorted(tmp_path.rglob("*")) == before
        return found

    return call


def message(found: dict[str, Any], level: str, topic: str, subject: str) -> str:
    """Returns the one message of a level about a subject."""
    wanted = {"level": level, "topic": topic, "subject": subject}
    messages = [finding["message"] for finding in found["findings"] if finding.items() >= wanted.items()]
    assert len(messages) == 1, json.dumps(found["findings"], indent=1)
    return messages[0]


def test_the_digits_are_green_but_for_the_doubts_of_the_readme(check: Check) -> None:
    found = check(config=ROOT / "configs" / "digits.yaml", code=0)
    assert (found["errors"], found["warnings"]) == (0, 2)
    for name in ("nap", "fusion"):
        assert "scores jigsaws of the training images above" in message(found, "warning", "detectors", name)
    assert message(found, "ok", "sets", "data.id.train") == "Digits: 1082 images, 8 classes, 32x32"


def test_everything_that_is_broken_is_named_at_once(check: Check, tmp_path: Path) -> None:
    images = folder(tmp_path / "train")
    test_images = folder(tmp_path / "test", each=3)
    for file in test_images.rglob("*.png"):  # other images than those of training, but for one
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    shutil.copy(images / "class0" / "3.png", test_images / "class0" / "0.png")
    shutil.copy(images / "class1" / "0.png", images / "class1" / "again.png")
    (ood := tmp_path / "pale").mkdir()
    for i in range(3):
        shutil.copy(images / "class2" / f"{i}.png", ood)
    broken = images / "class3" / "5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    found = check(
        *("--model.network.init_args.num_classes", "5", "--trainer.limit_val_batches", "2"),
        *("--data.id.train", images, "--data.id.test", test_images, "--data.ood.near/pale", ood),
        *("--data.ood.far/none", "nowhere", "--data.ood.far/own.class_path", "torchvision.datasets.SVHN"),
        *("--data.ood.far/own.init_args.root", "svhn", "--scoring.detectors.nap.init_args.tap", "blok2"),
        *("--scoring.detectors.line.init_args.threshold", "1", "--scoring.detectors.bad", "tests.helpers.tiny.NanFit"),
        *("--scoring.detectors.form", "lightning_ood.detectors.nap.NAP"),
        *("--scoring.detectors.form.init_args.form", "attention"),
        *("--scoring.detectors.path", "lightning_ood.detectors.msp.MSP"),
        code=1,
    )
    assert "class3/5.png" in message(found, "error", "sets", "data.id.train")
    assert list(found["sets"]["data.id.train"]["unreadable"]) == [str(broken)]
    assert "no such folder" in message(found, "error", "sets", "data.ood.far/none")
    assert "SVHN" in message(found, "error", "sets", "data.ood.far/own")
    assert "class1/again.png" in message(found, "warning", "duplicates", "data.id.train")
    shared = message(found, "error", "duplicates", "data.id.train, data.id.test")
    assert "1 images" in shared and "train/class0/3.png" in shared and "test/class0/0.png" in shared
    assert "3 images" in message(found, "error", "duplicates", "data.id.train, data.ood.near/pale")
    assert "5 logits" in message(found, "error", "classes", "data.id.train")
    assert "limit_val_batches 2" in message(found, "error", "trainer", "trainer")
    tap = message(found, "error", "detectors", "nap")
    assert "blok2" in tap and "block2" in tap
    assert "class token" in message(found, "error", "detectors", "form")
    assert "'path' is a column" in message(found, "error", "detectors", "path")
    assert "contains NaN" in message(found, "error", "detectors", "bad")
    assert message(found, "ok", "detectors", "scoring.detectors").endswith("dice, line, nac, feature_norm")
    assert {"msp", "dice", "line", "nac"} <= found["detectors"].keys(), "the others are checked all the same"


def test_a_process_prints_json_alone(config: Path, train: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = train("check", "--config", config, "--json", "--trainer.limit_val_batches", "2")
    assert sorted(tmp_path.rglob("*")) == before
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "limit_val_batches 2" in message(json.loads(done.stdout), "error", "trainer", "trainer")


def test_the_list_in_the_terminal(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    for width in (12, 20, 16):
        Image.new("RGB", (width, 9), (10 * width, 0, 0)).save(tmp_path / "far" / f"{width}.png")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "check",
                "--config",
                str(config),
                "--data.root",
                ".",
                "--data.ood.far/white",
                "far",
                "--data.ood.near/out",
                "null",
            ]
        )
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and shown.endswith("\n0 errors, 1 warning\n"), shown
    assert "✓ data.ood.far/white far: 3 images, 3 sizes, width 12 to 20, height 9 to 9, RGB\n" in shown, shown
    assert re.search(r"\nline +yes +yes +544 B +292 B ", shown), shown


def test_preprocessing_accuracy_and_the_order_of_classes(check: Check, tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    weights = ("--model.weights", tmp_path / "net.pth")
    as_trained = check(*weights, code=0)
    assert "the model's own" in message(as_trained, "ok", "model", "model.preprocess")
    assert "chance (25.0 %)" in message(as_trained, "warning", "accuracy", "data.id.test")

    other = {"size": 10, "interpolation": "bicubic", "mean": [0.4, 0.5, 0.5]}
    renamed = folder(tmp_path / "renamed")
    (renamed / "class3").rename(renamed / "a")
    found = check(
        *(*weights, "--model.preprocess", json.dumps(other), "--check.accuracy", 94, "--data.id.test", renamed), code=1
    )
    assert "(10, 10) here, the model's own is (12, 12)" in message(found, "warning", "model", "model.preprocess.size")
    assert "bicubic here, the model's own is bilinear" in message(
        found, "warning", "model", "model.preprocess.interpolation"
    )
    assert "(0.4, 0.5, 0.5)" in message(found, "warning", "model", "model.preprocess.mean")
    assert "missing: class3; not in training: a" in message(found, "error", "classes", "data.id.test")
    far = check(*weights, "--check.accuracy", 94, code=1)
    assert "published is 94.0 %" in message(far, "error", "accuracy", "data.id.test")


def test_what_each_detector_needs(check: Check, tmp_path: Path) -> None:
    needs = check("--check.limit", 5, code=0)["detectors"]
    assert [name for name, facts in needs.items() if facts["labels"]] == ["line"]
    assert [name for name, facts in needs.items() if facts["extra_forwards"]["fit"]] == ["feature_norm"]
    assert needs["nap"]["taps"] == ["last"] and not needs["nap"]["fit"]
    assert needs["dice"]["state_bytes"] == 17 * 8 and needs["dice"]["fitted_bytes"] >= 4 * 16 * 4

    folder(tmp_path / "images")
    lines = [str(path) for path in sorted((tmp_path / "images").rglob("*.png"))]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    found = check(
        "--data.id.train", tmp_path / "train.txt", "--scoring.detectors.bad", "tests.helpers.tiny.NanScore", code=1
    )
    assert "needs the labels" in message(found, "error", "detectors", "line")
    assert "not finite" in message(found, "error", "detectors", "bad")
    assert found["estimate"]["test"]["images"] == 23 + 17 + 2 and found["estimate"]["fit"]["seconds"] > 0
    assert found["estimate"]["memory"]["peak_bytes"] > 10**8, "torch alone takes more"

    none = [part for name in CORE[3:] for part in (f"--scoring.detectors.{name}", "null")]
    unfitted = check("--check.limit", 5, *none, code=0)
    assert unfitted["estimate"]["fit"] == {"images": 0, "seconds": 0.0, "seconds_per_image": {}}
    assert "no detector needs a fit" in message(unfitted, "ok", "cost", "fit")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FromOne", "no training image in FromOne for class 0"),
        ("SevenClasses", "the network has 4 logits and SevenClasses the label 6, counted from 0"),
    ],
)
def test_check_and_fit_agree_on_labels_that_only_items_tell(
    name: str, message: str, check: Check, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = ("--data.id.train.class_path", f"tests.helpers.usersets.{name}")
    found = [f for f in check(*dataset, code=1)["findings"] if (f["topic"], f["level"]) == ("classes", "error")]
    assert any(message in f["message"] for f in found)
    assert message.partition(" and ")[0] in refuse(capsys, "fit", "--config", config, *dataset)


def test_what_is_left_out_or_dark_is_told_and_labels_of_ood_sets_are_not_read(check: Check, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", classes=1)
    (images / "class0" / "features.npy").write_bytes(b"")
    for i in range(2):
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(images / "class0" / f"deep{i}.tif")
    boxes = ("--data.ood.far/boxes.class_path", "tests.helpers.usersets.Boxes", "--data.ood.far/folder", images)
    found = check(*boxes, code=0)
    messages = [f["message"] for f in found["findings"] if f["subject"] == "data.ood.far/folder"]
    assert any("left out, since Pillow cannot read such files as images: 1 .npy" in message for message in messages)
    assert any("2 of 8 images may be too dark" in message and "deep0.tif" in message for message in messages)
    assert message(found, "ok", "sets", "data.ood.far/boxes") == "Boxes: 30 images, 12x12"


def test_published_accuracy_of_torchvision(
    config: Path, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "file_hash", lambda path: "f37072fd" + 56 * "0")  # the published file's
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    file = tmp_path / Path(entry.url).name
    torch.save(torchvision.models.resnet18(num_classes=1000).state_dict(), file)
    content = yaml.safe_load(config.read_text())
    content["model"] = {"name": "torchvision:resnet18", "weights": str(file)}
    for part in ("train", "test"):
        content["data"]["id"][part]["init_args"] |= {"size": 1000, "classes": 1000}
    content["scoring"]["detectors"] = {"msp": "lightning_ood.detectors.msp.MSP"}
    config.write_text(yaml.safe_dump(content))
    found = check("--check.samples", 8, "--check.limit", 8, code=1)
    assert "published is 69.8 %" in message(found, "error", "accuracy", "data.id.test")
    assert "the model's own" in message(found, "ok", "model", "model.preprocess")


@pytest.mark.kit
def test_real_images_and_weights(kit: Path, check: Check) -> None:
    config = ROOT / "configs" / "cifar10_densenet.yaml"
    found = check(
        *("--data.root", kit, "--check.accuracy", 94.5, "--check.samples", 30, "--check.limit", 300),
        config=config,
        code=0,
    )
    assert found["sets"]["data.ood.near/tiny_imagenet"]["modes"].keys() == {"RGB", "L"}
    assert "published is 94.5 %" in message(found, "ok", "accuracy", "data.id.test")
