"""``features`` and back: what detectors score on stored features is what they score on the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lightning_ood import InputError, load_detector
from lightning_ood.commands.cli import main
from lightning_ood.data.rows import RowSet, read_table
from tests.helpers.runs import DETECTORS, Run, images

FILES = ("msp", "energy", "knn", "vim", "mds", "dice", "react", "nac", "odin")
READ_MORE = ("nap", "fusion", "adascale_a")  # maps, views, a step along a gradient
CONFIG: dict[str, Any] = {
    "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
    "data": {"id": {"name": "tints", "train": images(60), "test": images(80, seed=1)}, "batch_size": 16}
    | {"ood": {"far/white": images(12, shift=130), "near/pale": images(15, shift=60)}},
    "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False},
    "scoring": {"detectors": {name: str(DETECTORS / f"{name}.yaml") for name in (*FILES, *READ_MORE)}},
}
TRAINER = ("--config", "trainer.yaml", "--config", "features/features.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images, its features, and a run on these."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    rest = {key: CONFIG[key] for key in ("trainer", "scoring")} | {"data": {"batch_size": 16}}
    (folder / "trainer.yaml").write_text(yaml.safe_dump(rest))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit_test", "--config", "my.yaml", "--trainer.default_root_dir", "runs/images"])
        main(["features", "--config", "my.yaml", "--output", "features"])
        main(["fit_test", *TRAINER, "--trainer.default_root_dir", "runs/rows"])
    return folder


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_stored_features_score_as_the_images_do(place: Path) -> None:
    ours, theirs = (pd.read_parquet(place / "runs" / name / "scores.parquet") for name in ("rows", "images"))
    assert set(ours.columns[7:]) == set(FILES) and set(theirs.columns[7:]) == {*FILES, *READ_MORE}
    assert ours[[*ours.columns[:4], "label", "prediction"]].equals(theirs[[*ours.columns[:4], "label", "prediction"]])
    for name in FILES:
        assert ours[name].equals(theirs[name]), name


def test_two_processes_write_the_same(place: Path, train: Run, tmp_path: Path) -> None:
    given = (
        "--config",
        place / "my.yaml",
        "--output",
        tmp_path / "two",
        "--trainer.default_root_dir",
        tmp_path / "run",
    )
    done = train("features", *given, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr
    for name in ("train", "test", "ood/far/white"):
        one, two = (read_table(folder / f"{name}.safetensors") for folder in (place / "features", tmp_path / "two"))
        assert one.keys() == two.keys() >= {"logits", "pooled"}
        for key, values in one.items():
            np.testing.assert_allclose(two[key], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_every_format_holds_the_same(place: Path, tmp_path: Path, form: str) -> None:
    main(["features", "--config", "my.yaml", "--output", str(tmp_path), "--format", form])
    for name in ("train", "ood/near/pale"):
        one, other = read_table(place / "features" / f"{name}.safetensors"), read_table(tmp_path / f"{name}.{form}")
        for key, values in one.items():
            assert np.array_equal(other[key], values), key


def test_a_changed_table_is_not_taken_for_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TRAINER, "--trainer.default_root_dir", "runs/rows"])
    assert "Keeping the fit of" in capsys.readouterr().out
    path = place / "features" / "train.safetensors"
    whole, table = path.read_bytes(), read_table(path)
    table["pooled"][7, 3] += 1e-3
    np.savez(place / "changed.npz", **{key: np.asarray(values) for key, values in table.items()})
    flags = ["--data.id.train", str(place / "changed.npz")]
    main(["fit", *TRAINER, *flags, "--trainer.default_root_dir", "runs/rows"])
    assert "Keeping" not in capsys.readouterr().out and path.read_bytes() == whole


def test_check_export_and_predict(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", *TRAINER])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "left out, since features are stored" in said, said
    where = ["--trainer.default_root_dir", "runs/rows", "--output", "deployed", "--calibration_share", "0.5"]
    main(["export", *TRAINER, *where, "--detector", "knn", "energy"])
    detector = load_detector(place / "deployed")
    found = detector.predict("features/ood/far/white.safetensors")
    scores = pd.read_parquet(place / "runs" / "rows" / "scores.parquet").query("dataset == 'white'")
    assert [one.score for one in found] == pytest.approx(scores["knn"].tolist(), rel=1e-6)
    assert found[3].image == "features/ood/far/white.safetensors[3]"
    with pytest.raises(InputError, match="stored features, not images"):
        detector.predict(np.zeros((12, 12, 3), dtype=np.uint8))


def test_what_can_run_on_no_row_is_refused(place: Path) -> None:
    with pytest.raises(SystemExit):
        only = [part for name in FILES for part in (f"--scoring.detectors.{name}", "null")]
        main(["fit", *TRAINER, *only, "--trainer.default_root_dir", "runs/none"])


TABLE = {"pooled": np.ones((4, 3), np.float32), "logits": np.ones((4, 2), np.float32), "labels": np.arange(4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooled": None}, "it has no `pooled`"),
        ({"labels": np.arange(3)}, "differ in length: pooled 4, logits 4, labels 3"),
        ({"logits": np.ones(4)}, r"`logits` has the shape \[4\]"),
        ({"pooled": np.full((4, 3), np.nan)}, "`pooled` is not finite in 4 rows, the first is 0"),
        ({"pooled": np.array([[object()]])}, "cannot be read as a table of features"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    table = {name: values for name, values in {**TABLE, **changes}.items() if values is not None}
    np.savez(tmp_path / "bad.npz", **table, allow_pickle=True)
    with pytest.raises(InputError, match=f"bad.npz: .*{message}"):
        RowSet(tmp_path / "bad.npz")


def test_embeddings_under_other_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", embeddings=TABLE["pooled"].astype(np.float64), targets=TABLE["labels"])
    rows = RowSet(tmp_path / "mine.npz")
    assert rows[2].image is not None and rows[2].image.tolist() == [1, 1, 1] and rows[2].label == 2
