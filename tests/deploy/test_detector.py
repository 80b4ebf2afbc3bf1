"""An exported folder: the same scores as the run, any kind of image, decisions that follow the calibration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lightning_ood import load_detector
from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import WrappedSet, collate
from lightning_ood.deploy.detector import ExportedDetector
from lightning_ood.deploy.export import export
from lightning_ood.deploy.folder import read_header
from lightning_ood.deploy.spec import describe
from lightning_ood.detectors import Energy, list_detectors
from lightning_ood.errors import InputError
from lightning_ood.networks.cifar import ResNet20
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.suite import DetectorSuite
from tests.helpers.exported import PREPROCESS, batches, fitted, write
from tests.helpers.runs import ROOT
from tests.helpers.tiny import Images

FRESH, FAR = Images(40, seed=3), Images(40, seed=4, shift=130)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "copied")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        FRESH[i][0].save(folder / f"{i}.png")
    return folder


def test_scores_are_those_of_the_run(detector: ExportedDetector) -> None:
    backbone, suite = fitted()
    backbone.configure(suite.reads("test"))
    batch = next(iter(batches(30, 3)))
    with torch.inference_mode():
        expected = suite.score(backbone(batch.image, index=batch.index))
    backbone.close()
    assert torch.equal(detector.score(batch.image)[1], expected)


def test_every_kind_of_image_gives_the_same(detector: ExportedDetector, pictures: Path) -> None:
    image = Image.open(pictures / "2.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [str(pictures / "2.png"), pictures / "2.png", image, array, tensor, tensor / 255, array[None], tensor[None]]
    found = [detector.predict(kind) for kind in kinds] + [detector.predict([image, tensor])[1:]]
    assert all(len(one) == 1 for one in found)
    expected = found[0][0].score
    assert [one[0].score for one in found] == pytest.approx([expected] * len(found), abs=1e-5)
    assert [one.image for one in detector.predict(pictures)] == [str(pictures / f"{i}.png") for i in range(5)]
    assert [one.image for one in detector.predict(iter([image, image]))] == ["0", "1"]


def test_batches_do_not_matter(detector: ExportedDetector) -> None:
    images = [FRESH[i][0] for i in range(12)]
    whole, parts = detector.predict(images), detector.predict(images, batch_size=5)
    assert [one.p_value for one in whole] == pytest.approx([one.p_value for one in parts], abs=0.01)
    assert [one.label for one in whole] == [one.label for one in parts]


def test_a_prediction_follows_the_calibration(detector: ExportedDetector) -> None:
    found = detector.predict([FRESH[i][0] for i in range(40)] + [FAR[i][0] for i in range(40)])
    ordered = detector.calibration.ordered["fusion"]
    for one in found:
        assert one.p_value == (1 + (ordered <= np.float32(one.score)).sum()) / 121
        assert one.is_ood == (one.p_value <= 0.05) == (one.score < detector.calibration.threshold("fusion", 0.95))
        assert one.label in ("class0", "class1", "class2", "class3") and 0.25 <= one.probability <= 1
        assert one.scores["fusion"] == one.score and set(one.p_values) == {"fusion", "knn", "nap"}
    flags = [bool(one.is_ood) for one in found]
    assert sum(flags[:40]) <= 8 and sum(flags[40:]) >= 35


def test_the_decision_can_be_changed_at_call_time(detector: ExportedDetector) -> None:
    images = [FRESH[i][0] for i in range(20)]
    assert all(one.is_ood for one in detector.predict(images, threshold=1e6))
    strict = [one.is_ood for one in detector.predict(images, accept=0.6)]
    assert strict == [one.p_value <= 0.4 for one in detector.predict(images)]
    knn = detector.predict(images, detector="knn")
    assert [one.score for one in knn] == [one.scores["knn"] for one in detector.predict(images)]
    both = detector.predict([*images, *(FAR[i][0] for i in range(20))], fdr=0.2)
    assert not any(one.is_ood for one in both[:10]) or sum(bool(one.is_ood) for one in both[20:]) == 20
    within = detector.predict(images, by_class=True)
    assert [one.p_value for one in within] != [one.p_value for one in detector.predict(images)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"accept": 0.999}, "needs at least 999"),
        ({"detector": "kn"}, "write one of knn"),
        ({"threshold": 0.0, "accept": 0.9}, "leave out accept"),
        ({"fdr": 0.1, "by_class": True}, "leave out accept, threshold and by_class"),
    ],
)
def test_a_wrong_rule_is_refused(detector: ExportedDetector, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector.predict(FRESH[0][0], **arguments)


def test_a_bad_image_stops_or_is_reported(detector: ExportedDetector, pictures: Path) -> None:
    (pictures / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.png: cannot read"):
        detector.predict(pictures)
    found = detector.predict(pictures, bad_images="skip")
    assert [one.is_ood is None for one in found] == [False, True, False, False, False]
    assert "cannot read" in found[1].error and "bad_images" not in found[1].error
    with pytest.raises(InputError, match="int is no image"):
        detector.predict(3)
    with pytest.raises(InputError, match="without its normalisation"):
        detector.predict(torch.randn(3, 12, 12))


def test_odd_images_are_read(detector: ExportedDetector) -> None:
    sizes = [Image.new("L", (40, 9)), Image.new("RGBA", (3, 3)), Image.new("I;16", (12, 12)), Image.new("1", (1, 1))]
    assert all(np.isfinite(one.score) for one in detector.predict(sizes))


def test_too_small_classes_are_told(tmp_path: Path) -> None:
    loaded = load_detector(write(tmp_path / "small", size=60), trust_code=True)
    small = loaded.too_small()
    assert small and all(count < 19 for count in small.values())
    chosen = [FAR[i][0] for i in range(40)]
    assert not any(one.is_ood for one in loaded.predict(chosen, by_class=True) if one.label in small)
    assert "never called OOD" in (tmp_path / "small" / "README.md").read_text()


@pytest.mark.parametrize("name", ["header.json", "weights.safetensors", "fits.safetensors", "calibration.safetensors"])
def test_a_changed_or_missing_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(InputError, match=r"changed|damaged"):
        load_detector(copied, trust_code=True)
    (copied / name).unlink()
    with pytest.raises(InputError, match=r"missing|no exported detector"):
        load_detector(copied, trust_code=True)


def test_another_format_and_foreign_code_are_refused(copied: Path) -> None:
    with pytest.raises(InputError, match="trust_code=True"):
        load_detector(copied)
    header = json.loads((copied / "header.json").read_text())
    (copied / "header.json").write_text(json.dumps({**header, "format": 2}))
    with pytest.raises(InputError, match="format 2"):
        load_detector(copied, trust_code=True)
    with pytest.raises(InputError, match="no folder"):
        load_detector(copied / "nowhere")


def test_the_header_says_what_is_in_the_folder(exported: Path) -> None:
    header = read_header(exported)
    assert list(header["detectors"]) == ["fusion", "knn", "nap"] and header["calibration"]["images"] == 120
    assert header["shared"], "fusion and knn share their bank"
    assert 0.9 < header["calibration"]["accept_with_confidence"] < 0.95
    card = (exported / "README.md").read_text()
    assert "at least 95.0% are accepted" in card and "120 images of a test" in card


def test_detectors_of_every_kind_come_back(tmp_path: Path) -> None:
    chosen = {name.lower(): kind() for name, kind in list_detectors().items() if name not in LEFT_OUT}
    folder = write(tmp_path / "all", chosen)  # compares the loaded scores with those of the run
    loaded = load_detector(folder, trust_code=True)
    assert all(np.isfinite(one.score) for one in loaded.predict(FRESH[0][0])) and len(loaded.detectors) > 30


LEFT_OUT = {"Search"}  # needs a grid; its parts are exported as any detector's


def test_what_is_exported_is_checked(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="is no exported detector"):
        write(tmp_path / "taken")
    with pytest.raises(InputError, match="at least 19"):
        write(tmp_path / "few", size=10)
    with pytest.raises(InputError, match="give --overwrite"):
        write(exported)
    assert PREPROCESS.size == (12, 12)


def test_a_fresh_process_imports_nothing_of_a_training(tmp_path: Path) -> None:
    """A network of the package needs no consent; one of timm costs timm's import too, but not W&B's."""
    for name, described in (("own", own_network), ("named", named_network)):
        network, size, spec = described()
        backbone = Backbone(network.eval().requires_grad_(False), (size, size))
        suite = DetectorSuite({"energy": Energy()})
        suite.setup(backbone.info())
        preprocess = Preprocess((size, size), size, "bilinear", (0.5,) * 3, (0.5,) * 3)
        images = WrappedSet(Images(30))
        images.transform = preprocess.transform()
        loader = DataLoader(images, batch_size=15, collate_fn=collate)
        export(tmp_path / name, backbone, spec, preprocess, suite, loader, origin="30 images")
        backbone.close()
    FRESH[0][0].save(tmp_path / "one.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["own"][1] == [] and found["named"][1] == ["timm"]
    for name in ("own", "named"):
        here = load_detector(tmp_path / name).predict(FRESH[0][0])[0]
        assert found[name][0] == pytest.approx(here.score, rel=1e-4)


def own_network() -> tuple:
    return ResNet20(), 32, {"class_path": "lightning_ood.networks.cifar.ResNet20", "init_args": {}}


def named_network() -> tuple:
    options = {"num_classes": 4, "layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    network = timm.create_model("resnet18", pretrained=False, **options)
    return network, 32, {"name": "timm:resnet18", "options": describe(options)}


PROCESS = """
import json, sys
from lightning_ood import load_detector
from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import WrappedSet, collate
named = ("lightning", "wandb", "matplotlib", "timm", "pandas", "torchmetrics.functional", "sklearn")
found = {}
for name in ("own", "named"):
    score = load_detector(name).predict("one.png")[0].score
    found[name] = score, [name for name in named if name in sys.modules]
import torchmetrics
from torchmetrics.classification import MulticlassAccuracy
from lightning_ood.detectors.base import Detector
assert issubclass(Detector, torchmetrics.Metric) and isinstance(MulticlassAccuracy(3), torchmetrics.Metric)
print(json.dumps(found))
"""
