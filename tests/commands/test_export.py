"""``export`` and ``predict`` as they are called: from a config to a decision."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from lightning_ood.commands.cli import main
from lightning_ood.deploy.folder import read_header
from tests.helpers.runs import DETECTORS, images
from tests.helpers.tiny import Images

CONFIG: dict[str, Any] = {
    "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
    "data": {"id": {"train": images(60), "test": images(80, seed=1)}, "ood": {"far/white": images(12, shift=130)}},
    "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False},
    "scoring": {"detectors": {name: str(DETECTORS / f"{name}.yaml") for name in ("energy", "nap", "fusion")}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fit, an exported folder and images."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    for name, shift in (("known", 0), ("white", 130), ("data/few", 0)):
        (folder / name).mkdir(parents=True)
        for i, (image, _) in enumerate(Images(6, seed=5, shift=shift)):  # type: ignore[arg-type]
            image.save(folder / name / f"{i}.png")
            if i == 5:
                break
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "my.yaml"])
        main(["test", "--config", "my.yaml"])
        main([*EXPORT, "--detector", "nap", "energy", "--output", "out", "--calibration_share", "0.5"])
    return folder


EXPORT = ["export", "--config", "my.yaml"]
PREDICT = ["predict", "--detector", "out", "--trust_code"]


def said(capsys: pytest.CaptureFixture[str], command: list[str], code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    try:
        main(command)
    except SystemExit as stop:
        assert stop.code == code, capsys.readouterr().err
    else:
        assert code == 0
    return capsys.readouterr()


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_the_folder_says_what_was_asked_for(place: Path) -> None:
    header = read_header(place / "out")
    assert list(header["detectors"]) == ["nap", "energy"] and header["calibration"]["images"] == 40
    assert header["calibration"]["origin"] == "40 of the 80 ID test images (Images), drawn by seed 0"
    card = (place / "out" / "README.md").read_text()
    assert "| nap | white | 12 |" in card, "the run's table"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_format_has_the_same_rows(place: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    output = place / f"found.{form}"
    said(capsys, [*PREDICT, "known", "white/*.png", "--output", str(output)])
    table = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}[form](
        output
    )
    assert list(table["image"][:7]) == [*(f"known/{i}.png" for i in range(6)), "white/0.png"]
    assert table["is_ood"][6:].sum() >= 4 and table["is_ood"][:6].sum() <= 2
    assert {"label", "probability", "score", "p_value", "score/nap", "p_value/energy"} <= set(table)


def test_the_standard_output_and_the_options(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(said(capsys, [*PREDICT, "known"])[0])))
    assert len(rows) == 6
    lines = said(capsys, [*PREDICT, "known", "--format", "jsonl", "--use", "energy", "--accept", "0.8"])[0].splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["is_ood"] for one in found] == [one["p_value"] <= 0.2 for one in found]
    assert [one["score"] for one in found] == [one["score/energy"] for one in found]
    table = said(capsys, [*PREDICT, "white", "known", "--format", "table", "--fdr", "0.2"])[0]
    assert "OOD" in table and "white/0.png" in table


def test_two_processes_give_what_one_gives(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    command = [*PREDICT, "known", "white", "nowhere.png", "--batch_size", "4", "--format", "csv"]
    one, two = (said(capsys, [*command, "--processes", n], code=1)[0] for n in "12")
    assert one == two and len(one.splitlines()) == 14
    discovered = [said(capsys, [*command, "--fdr", "0.2", "--processes", n], code=1)[0] for n in "12"]
    assert discovered[0] == discovered[1] != one


def test_several_detectors_decide_together(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    command = [*PREDICT, "known", "white", "--format", "jsonl"]
    found = [json.loads(line) for line in said(capsys, [*command, "--joint", "nap", "energy"])[0].splitlines()]
    alone = [json.loads(line) for line in said(capsys, command)[0].splitlines()]
    assert [one["score/energy"] for one in found] == [one["score/energy"] for one in alone]
    assert all(one["p_value"] * 21 == pytest.approx(round(one["p_value"] * 21)) for one in found), "20 images rank"
    assert [one["is_ood"] for one in found] == [one["p_value"] <= 0.05 for one in found]
    with pytest.raises(SystemExit):
        main([*command, "--joint", "nap"])
    assert "two or more detectors" in capsys.readouterr().err


def test_a_smaller_bank_and_its_cost(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    knn = ["--scoring.detectors.knn", str(DETECTORS / "knn.yaml"), "--scoring.detectors.knn.init_args.k", "5"]
    main(["fit", "--config", "my.yaml", *knn])
    where = ["--output", "small", "--calibration_share", "0.5", "--bank", "20"]
    text = said(capsys, [*EXPORT, *knn, "--detector", "knn", "energy", *where])[0]
    row = next(line for line in text.splitlines() if "knn" in line and "white" in line)
    before, after, difference = (float(cell) for cell in row.strip("| ").split("|")[2:])
    assert difference == pytest.approx(after - before, abs=0.011) and "energy" not in row
    assert load_file(place / "small" / "fits.safetensors")["knn/bank"].shape == (20, 16)
    said(capsys, ["predict", "--detector", "small", "--trust_code", "known"])
    assert "no detector holds" in said(capsys, [*EXPORT, "--detector", "energy", *where, "--overwrite"])[0]


def test_a_list_on_stdin(capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("known/1.png\n\nwhite/2.png\n"))
    rows = list(csv.DictReader(io.StringIO(said(capsys, [*PREDICT, "-"])[0])))
    assert [row["image"] for row in rows] == ["known/1.png", "white/2.png"]


def test_a_bad_image_is_reported_and_the_others_go_on(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "bad.png").write_bytes(b"no image")
    out, err = said(capsys, [*PREDICT, "known/0.png", "bad.png", "nowhere.png", "known/1.png"], code=1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [bool(row["error"]) for row in rows] == [False, True, True, False] and rows[1]["score"] == ""
    assert "2 of 4 images could not be read" in err


@pytest.mark.parametrize(
    "command, message",
    [
        ([*EXPORT, "--output", "new"], "no calibration images: give"),
        ([*EXPORT, "--output", "out", "--calibration_share", "0.5"], "give --overwrite"),
        ([*EXPORT, "--output", "new", "--calibration_share", "0.5", "--detector", "knn"], "no such detector"),
        ([*EXPORT, "--output", "new", "--calibration_share", "0.5", "--accept", "0.99"], "needs at least 99"),
        ([*EXPORT, "--output", "new", "--calibration", "few"], "at least 19"),
        (["predict", "--detector", "out", "known"], "trust_code"),
        (["predict", "--detector", "known", "known"], "no exported detector"),
        ([*PREDICT, "x/*.png"], "no file matches"),
        ([*PREDICT, "known", "--format", "parquet"], "give --output"),
        ([*PREDICT, "known", "--output", "found.xyz"], "end it in"),
    ],
)
def test_wrong_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str], message: str
) -> None:
    monkeypatch.delenv("LIGHTNING_OOD_DATA", raising=False)
    assert message in said(capsys, command, code=2)[1]


def test_training_images_are_no_calibration_images(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "same").mkdir()
    for i in range(30):
        Images(60)[i][0].save(place / "same" / f"{i}.png")
    error = said(capsys, [*EXPORT, "--output", "new", "--calibration", str(place / "same")], code=2)[1]
    assert "30 of 30 calibration images are training images" in error


def test_a_set_of_the_config_calibrates(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    id_sets = {**CONFIG["data"]["id"], "calibration": images(50, seed=2)}
    (place / "own.yaml").write_text(yaml.safe_dump({**CONFIG, "data": {**CONFIG["data"], "id": id_sets}}))
    run = ["--trainer.default_root_dir", "runs/my"]
    out = said(capsys, ["export", "--config", "own.yaml", *run, "--output", "own", "--accept", "0.9"])[0]
    assert "calibrated on all 50 images of Images" in out and "MB" in out
    assert set(read_header(place / "own")["detectors"]) == {"energy", "nap", "fusion"}
