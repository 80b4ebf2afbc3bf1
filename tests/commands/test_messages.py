"""What the parser refuses is said in one line: where it is given, what is wrong, what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_ood.commands.cli import main
from lightning_ood.commands.messages import missing_library
from tests.helpers.runs import images

CASES = {
    "option": (
        ["--data.batchsize", "3"],
        "no such option (did you mean --data.batch_size?)",
    ),
    "group": (["--detectors.knn", "null"], "(did you mean --scoring.detectors.knn?)"),
    "plural": (["--scoring.detector.knn", "null"], "(did you mean --scoring.detectors.knn?)"),
    "type": (["--data.batch_size", "many"], "--data.batch_size: write a whole number, not many"),
    "choice": (
        ["--data.bad_images", "skp"],
        "write one of error, skip, not skp (did you mean skip?)",
    ),
    "argument": (["--scoring.detectors.k.init_args.bank", "3"], "KNN has no argument 'bank' (did you mean bank_size?)"),
    "wrong": (
        ["--scoring.detectors.k.init_args.k", "x"],
        "k.init_args.k: write a whole number, not x",
    ),
    "class": (["--trainer.logger", "CSVLoger"], "--trainer.logger: there is no class CSVLoger (did you mean CSVLogger"),
    "module": (["--model.network", "nope.Net"], "--model.network: nope.Net: there is no module nope"),
    "name": (["--model.network", "tests.helpers.tiny.Nett"], "tests.helpers.tiny has no Nett (did you mean Net?)"),
    "set": (["--data.ood.near/pale.init_args.siz", "3"], "Images has no argument 'siz' (did you mean size?)"),
    "file": (["--config", "nofile.yaml"], "nofile.yaml"),
}
FILES = {
    "key": (
        {"data": {"batchsize": 3}},
        "more.yaml: data.batchsize: there is no such key (did you mean data.batch_size?)",
    ),
    "top": ({"modle": {"name": "x"}}, "more.yaml: modle.name: there is no such key (did you mean model.name?)"),
    "argument": (
        {"scoring": {"detectors": {"k": {"class_path": "KNN", "init_args": {"kk": 3}}}}},
        "more.yaml: scoring.detectors.k.init_args.kk: KNN has no argument 'kk' (did you mean k?)",
    ),
    "value": (
        {"scoring": {"detectors": {"k": {"class_path": "KNN", "init_args": {"k": "many"}}}}},
        "more.yaml: scoring.detectors.k.init_args.k: write a whole number, not many",
    ),
    "path": (
        {"scoring": {"detectors": {"k": "lightning_ood.detectors.knn.KN"}}},
        "more.yaml: scoring.detectors.k: lightning_ood.detectors.knn has no KN (did you mean KNN?)",
    ),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1, said
    return said


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    data = {"id": {"train": images(9), "test": images(9)}, "ood": {"near/pale": images(9)}}
    Path("small.yaml").write_text(yaml.safe_dump({"data": data, "scoring": {"detectors": {"k": "KNN"}}}))
    return "small.yaml"


@pytest.mark.parametrize("case", CASES)
def test_of_an_option(case: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = CASES[case]
    assert message in refused(capsys, "fit", "--config", small, *arguments)


@pytest.mark.parametrize("case", FILES)
def test_of_a_file(case: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = FILES[case]
    Path("more.yaml").write_text(yaml.safe_dump(content))
    assert message in refused(capsys, "fit", "--config", small, "--config", "more.yaml")


def test_broken_yaml_and_missing_arguments(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("data: {ood: [1, 2\n")
    assert "broken.yaml cannot be read as YAML" in refused(capsys, "fit", "--config", small, "--config", "broken.yaml")
    assert "data.id.test, scoring.detectors: give each" in refused(capsys, "fit", "--data.id.train", "x")


def test_all_of_it_with_debug(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", small, "--scoring.detectors.k.init_args.k", "x", "--debug"])
    assert "Does not validate against any of the Union subtypes" in capsys.readouterr().err


def test_other_commands(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--latx: there is no such option (did you mean --latex?)" in refused(capsys, "report", "runs/a", "--latx")
    assert "are required: file" in refused(capsys, "sweep")


class TensorBoardLogger:
    def __init__(self) -> None:
        raise ModuleNotFoundError("Neither is available. Try `pip install`ing either.\nand\nmore")


def test_the_object_that_needs_a_library_is_named() -> None:
    path = "lightning.pytorch.loggers.TensorBoardLogger"
    config = {"trainer": {"logger": [{"class_path": path, "init_args": {}}]}}
    with pytest.raises(ValueError, match="a union") as error:  # as jsonargparse raises it
        try:
            TensorBoardLogger()
        except ImportError as cause:
            raise ValueError("a union") from cause
    said = missing_library(error.value, config)
    assert said == f"trainer.logger.0: {path} cannot be made: Neither is available. Try `pip install`ing either."
    assert missing_library(ValueError("another"), config) == ""
