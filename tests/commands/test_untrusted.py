"""Folders, configs and checkpoints of somebody else: nothing in them is run, waited for or blown up."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lightning_ood.commands.cli import main
from lightning_ood.engine.run_dir import read_checkpoint
from lightning_ood.errors import InputError
from lightning_ood.report import write_scores
from lightning_ood.report.doubts import read_doubts
from lightning_ood.report.table import read_metrics
from tests.helpers.scores import make_scores
from tests.ops.test_plain_yaml import BOMB


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    began = time.process_time()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said and time.process_time() - began < 20
    return said


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a package beside it, pipes in place of its files, formulas as names, and a huge label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for package in (tmp_path / "planted", tmp_path / "planted" / "deep"):
        package.mkdir()
        (package / "__init__.py").write_text("raise SystemExit('run')")
    os.mkfifo(tmp_path / "planted" / "pipe.py")
    run = tmp_path / "run"
    scores = make_scores(["msp", "=1+1"], [("@far", "far")], n_id=12, n_ood=9)
    scores.loc[0, ["label", "prediction"]] = 10**11
    os.mkfifo(tmp_path / "image.png")
    write_scores(scores.assign(path="image.png"), run)
    detectors = {"msp": "planted.deep.Own", "=1+1": {"class_path": "planted.pipe.Own"}}
    specs = {name: spec if isinstance(spec, dict) else {"class_path": spec} for name, spec in detectors.items()}
    config = {"data": {"root": str(tmp_path)}, "scoring": {"detectors": specs}}
    (run / "config.test.yaml").write_text(yaml.safe_dump(config))
    (run / "doubts.csv").write_text("detector,doubt\n'=1+1,\"'=2+2, it says\"\n")
    (run / "report").mkdir()
    for name in ("metrics.csv", "report/index.html", "report/roc.png", "report/mistakes-msp.png", "report/fits.json"):
        os.mkfifo(run / name)
    return run


def test_report_of_a_hostile_run(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(hostile)])
    assert not {name for name in sys.modules if name.startswith("planted")}
    assert (hostile / "report" / "roc.png").is_file() and (hostile / "report" / "index.html").is_file()
    text = (hostile / "metrics.csv").read_text()
    assert "'=1+1,'@far" in text and "\n=" not in text and ",@" not in text
    metrics = read_metrics(hostile)
    assert set(metrics["detector"]) == {"msp", "=1+1"} and set(metrics["dataset"]) == {"@far", "mean"}
    assert read_doubts(hostile) == {"=1+1": ["=2+2, it says"]}


def test_compare_of_a_hostile_run(hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(hostile), "--out", str(tmp_path / "tables")])
    for name in ("table.csv", "differences.csv"):
        text = (tmp_path / "tables" / name).read_text()
        assert "'=1+1" in text and ",=" not in text and ",@" not in text
    (hostile / "scores.parquet").unlink()
    os.mkfifo(hostile / "scores.parquet")
    assert "no scores at" in refuse(capsys, "compare", hostile)
    assert "no scores at" in refuse(capsys, "report", hostile)


def test_aliases_that_stand_for_a_billion_values(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(BOMB)
    (hostile / "config.test.yaml").write_text(BOMB)
    assert "config.test.yaml cannot be read as YAML (its aliases" in refuse(capsys, "report", hostile)
    assert "bomb.yaml" in (said := refuse(capsys, "sweep", bomb)) and "its aliases" in said
    assert "its aliases" in refuse(capsys, "fit", "--config", bomb)
    (hostile / "config.test.yaml").write_bytes(b"data: caf\xe9")
    for arguments in (("report", hostile), ("fit", "--config", hostile / "config.test.yaml")):
        assert "config.test.yaml is no text in UTF-8" in refuse(capsys, *arguments)
    assert "its aliases" in refuse(capsys, "fit", "--scoring.detectors.a", bomb)
    assert "data.ood" in refuse(capsys, "fit", "--data.ood", BOMB)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch run",)


def test_a_checkpoint_with_code_is_refused_and_nobody_is_told_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    for content in ({"state_dict": Code()}, torch.nn.Linear(1, 1), pd.Series([1])):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"last\.ckpt holds a Python object .*could run code") as refusal:
            read_checkpoint(path)
        assert "weights_only" not in str(refusal.value) and refusal.value.__suppress_context__
    path.write_bytes(b"\x80\x02}q\x00\x95.")
    with pytest.raises(InputError, match="cannot be read as a checkpoint") as refusal:
        read_checkpoint(path)
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "run").exists()
