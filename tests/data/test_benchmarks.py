"""Every benchmark's config runs as it is on images laid out as docs/data.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchvision
import yaml

from lightning_ood.commands.cli import main
from lightning_ood.commands.merging import ALL
from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.report import summarise, without_csid
from tests.helpers.layouts import Downloading, lay_out
from tests.helpers.runs import ROOT, Run

CONFIGS = sorted((ROOT / "configs" / "benchmarks").glob("*.yaml"), key=str)
ENERGY = {"class_path": "lightning_ood.detectors.energy.Energy"}
OTHER = {"far/other": "of the model's config, which a benchmark leaves out"}
MODEL = {
    "data": {"ood": OTHER},
    "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
    "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False},
    "scoring": {
        "detectors": {
            "energy": ENERGY,
            "mds": {"class_path": "lightning_ood.detectors.mds.MDS"},
        }
    },
}
FULL_SPECTRUM = ROOT / "configs" / "benchmarks" / "openood_imagenet200_fs.yaml"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lays a benchmark out and runs a job on it, a model's config and the benchmark's put together."""
    monkeypatch.setenv("LIGHTNING_OOD_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for name in ("CIFAR10", "CIFAR100", "SVHN"):
        monkeypatch.setattr(torchvision.datasets, name, Downloading)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))

    def call(config: Path, *jobs: str, more: tuple[object, ...] = ()) -> Path:
        for job in jobs:
            main([job, "--config", "model.yaml", "--config", str(config), *map(str, more)])
        return tmp_path / "runs" / "model"

    return call


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_benchmark_runs_as_it_is(path: Path, bench: Any, tmp_path: Path) -> None:
    data = yaml.safe_load(path.read_text())["data"]
    assert set(yaml.safe_load(path.read_text())) == {"data"}
    lay_out(data, tmp_path / "data")
    run = bench(path, "fit", "test")
    scores, metrics = pd.read_parquet(run / "scores.parquet"), pd.read_csv(run / "metrics.csv")
    sets = {key.split("/")[1]: key.split("/")[0] for key in data["ood"] if key != ALL}
    known = {data["id"]["name"]: "id", **dict.fromkeys(data.get("csid", {}).keys() - {ALL}, "csid")}
    found = scores.groupby("dataset", sort=False)["group"].first().to_dict()
    assert found == {**known, **sets}
    assert (scores.groupby("dataset").size() == 8).all()
    assert (
        scores[scores["role"] == "ood"]["label"].isna().all() and scores[scores["role"] != "ood"]["label"].notna().all()
    )
    files = scores["path"].dropna()
    assert files.map(lambda name: (tmp_path / "data" / name).is_file()).all() and files.str.contains(" ").all()
    marks = ["", "fs/"] if "csid" in data else [""]
    rows = {(mark + group, mark + name) for mark in marks for name, group in sets.items()}
    rows |= {(mark + group, "mean") for mark in marks for group in sets.values()}
    assert set(zip(metrics["group"], metrics["dataset"], strict=True)) == rows


def test_the_page_of_data_names_every_benchmark_and_its_folders() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for path in CONFIGS:
        assert f"`{path.stem}`" in page
        for folder in re.findall(r"(?:folder|root|\w+): ((?:images|id|ood|cifar)\w*)", path.read_text()):
            assert folder in page, (path.stem, folder)


def test_a_benchmark_of_other_classes_than_the_network_is_refused(bench: Any, tmp_path: Path, capsys: Any) -> None:
    path = CONFIGS[[p.stem for p in CONFIGS].index("openood_cifar10")]
    lay_out(yaml.safe_load(path.read_text())["data"], tmp_path / "data")
    for job, more in (("fit", ()), ("test", ("--scoring.detectors", json.dumps({"energy": ENERGY})))):
        with pytest.raises(SystemExit):
            bench(path, job, more=("--model.network.init_args.num_classes", 3, *more))
        assert "the network has 3 logits and the ID set the label 3" in capsys.readouterr().err


def by_hand(known: np.ndarray, ood: np.ndarray) -> tuple[float, float]:
    """AUROC and FPR95 (ID positive) in percent, from their definitions."""
    wins = [(k > o) + 0.5 * (k == o) for k in known for o in ood]
    threshold = sorted(known, reverse=True)[int(np.ceil(0.95 * len(known))) - 1]
    return 100 * float(np.mean(wins)), 100 * float(np.mean(ood >= threshold))


def test_full_spectrum_counts_shifted_images_as_id(bench: Any, tmp_path: Path, capsys: Any) -> None:
    data = yaml.safe_load(FULL_SPECTRUM.read_text())["data"]
    lay_out(data, tmp_path / "data", count=21)
    run = bench(FULL_SPECTRUM, "fit", "test")
    said = capsys.readouterr().out
    scores, metrics = pd.read_parquet(run / "scores.parquet"), pd.read_csv(run / "metrics.csv")
    known = {"": scores[scores["role"] == "id"], "fs/": scores[scores["role"] != "ood"]}
    assert [len(images) for images in known.values()] == [21, 84]
    cells = metrics.set_index(["detector", "group", "dataset"])
    for detector in ("energy", "mds"):
        for mark, images in known.items():
            for group, names in (("near", ("ssb_hard", "ninco")), ("far", ("inaturalist", "textures", "openimage_o"))):
                ood = [scores.loc[scores["dataset"] == name, detector].to_numpy() for name in names]
                values = [by_hand(images[detector].to_numpy(), part) for part in ood]
                for name, value in zip((*names, "mean"), (*values, np.mean(values, axis=0)), strict=True):
                    row = cells.loc[(detector, mark + group, name if name == "mean" else mark + name)]
                    assert row[["auroc", "fpr95"]].tolist() == pytest.approx(list(value), abs=1e-6)
                    assert row["n_id"] == len(images) and row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
    shifted = scores[scores["role"] == "csid"]
    for name, images in shifted.groupby("dataset"):
        right = 100 * (images["label"] == images["prediction"]).mean()
        assert f"{name} 21 (accuracy {right:.1f} %)" in " ".join(said.split())
    page = (run / "report" / "index.html").read_text()
    assert "imagenet_v2 21 (accuracy" in page and "fs/near" in page
    rest = metrics[~metrics["group"].str.startswith("fs/")].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        summarise(without_csid(scores)), rest, check_dtype=False
    )  # the other rows stay as they are


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "benchmark_imglist/cifar10/test_tin.txt").unlink(),
            "data.ood.near/tin: .*test_tin.txt: no such",
        ),
        (
            lambda root: (root / "images_classic/test_tin/a class/image 3.png").unlink(),
            "data.ood.near/tin: .*test_tin.txt, line 4: 1 of 8 files are missing: .*image 3.png; the paths in this "
            "list start from the folder .*images_classic",
        ),
        (
            lambda root: (root / "benchmark_imglist/cifar10/test_tin.txt").write_text("test_tin/a b.png -1\nx y z\n"),
            "data.ood.near/tin: .*test_tin.txt, line 2: cannot read `x y z`",
        ),
        (
            lambda root: (root / "benchmark_imglist/cifar10/test_cifar10.txt").write_text(
                "".join(f"test_cifar10/a class/image 0.png {label}\n" for label in (0, 0, 1))
            ),
            "data.id.test: .*test_cifar10.txt, line 3: .*image 0.png has the label 1 here and 0 in line 1",
        ),
        (
            lambda root: (root / "images_classic").rename(root / "elsewhere"),
            "data.id.test: .*test_cifar10.txt: its images start from .*images_classic, and there is no such folder",
        ),
    ],
    ids=["list", "file", "line", "label", "folder"],
)
def test_what_is_wrong_with_a_list_is_named(bench: Any, tmp_path: Path, capsys: Any, spoil: Any, message: str) -> None:
    path = CONFIGS[[p.stem for p in CONFIGS].index("openood_cifar10")]
    lay_out(yaml.safe_load(path.read_text())["data"], tmp_path / "data")
    spoil(tmp_path / "data")
    with pytest.raises(SystemExit) as stop:
        bench(path, "test", more=("--scoring.detectors", json.dumps({"energy": ENERGY})))
    assert stop.value.code == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(("pseudo_ood", "passed"), [(None, {"fit"}), ([], {"fit", "val_ood/tin"})])
def test_validation_sets_cost_nothing_without_a_search(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pseudo_ood: list[Any] | None, passed: set[str]
) -> None:
    path = CONFIGS[[p.stem for p in CONFIGS].index("openood_cifar10")]
    lay_out(yaml.safe_load(path.read_text())["data"], tmp_path / "data")
    loaded = []
    loaders = OODDataModule.val_dataloader
    monkeypatch.setattr(OODDataModule, "val_dataloader", lambda data: loaded.append(loaders(data)) or loaders(data))
    search = {
        "class_path": "lightning_ood.detectors.combine.search.Search",
        "init_args": {"pseudo_ood": pseudo_ood, "held_out": 0.5},
    }
    bench(path, "fit", more=("--scoring.detectors", json.dumps({"energy": ENERGY, "searched": search})))
    assert {name for found in loaded for name in found} == passed


@pytest.mark.slow
def test_processes_share_shifted_sets_and_downloads(tmp_path: Path, train: Run) -> None:
    data = yaml.safe_load(FULL_SPECTRUM.read_text())["data"]
    lay_out(data, tmp_path / "data", count=11)
    data["ood"]["far/fetched"] = {
        "class_path": "tests.helpers.layouts.Downloading",
        "init_args": {"root": "fetched", "download": True},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({**MODEL, "data": data}))
    found = []
    for processes, more in ((2, ("--trainer.strategy", "ddp")), (1, ())):
        run = tmp_path / f"run{processes}"
        for job in ("fit", "test"):
            where = ("--trainer.default_root_dir", run, "--trainer.devices", processes)
            done = train(job, "--config", "model.yaml", *where, *more, LIGHTNING_OOD_DATA=str(tmp_path / "data"))
            assert done.returncode == 0, done.stderr
        found.append((pd.read_parquet(run / "scores.parquet"), pd.read_csv(run / "metrics.csv")))
    for two, one in zip(*found, strict=True):
        pd.testing.assert_frame_equal(two, one, check_exact=False, rtol=1e-5, atol=1e-4)
    assert (tmp_path / "data" / "fetched" / "images.npy").is_file()  # its relative root starts from the data's
