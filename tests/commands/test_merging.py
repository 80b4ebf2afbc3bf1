"""A second config changes one data set or one detector, in every form, and leaves the others alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_ood.commands.cli import main
from lightning_ood.commands.sweep import runs
from lightning_ood.commands.sweep.plan import resolve
from lightning_ood.commands.sweep.point import Resolver
from lightning_ood.commands.sweep.space import Sweep
from lightning_ood.detectors import KNN, list_detectors
from tests.helpers.runs import ROOT, images


@pytest.fixture
def base(tmp_path: Path) -> Path:
    data = {"id": {"train": "a", "test": "b"}, "ood": {"near/x": "x", "far/y": "y"}, "csid": {"c": "c"}}
    detectors = {"knn": {"class_path": "KNN", "init_args": {"k": 7}}, "msp": "MSP"}
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"data": data, "scoring": {"detectors": detectors}}))
    return path


def resolved(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OOD sets, and of each detector its class and arguments, None where it is left out."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", *map(str, arguments), "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    content = yaml.safe_load(said.out)
    assert content["data"]["csid"] == {"c": "c"}
    found = {
        name: spec and (spec["class_path"].rpartition(".")[2], spec.get("init_args", {}))
        for name, spec in content["scoring"]["detectors"].items()
    }
    return content["data"]["ood"], found


NESTED = """\
data: {ood: {near/x: null, far/z: z}}
scoring: {detectors: {msp: null, e: Energy, knn: {init_args: {k: 10}}}}
"""
DOTTED = """\
data.ood.near/x: null
data.ood.far/z: z
scoring.detectors.msp: null
scoring.detectors.e: Energy
scoring.detectors.knn.init_args.k: 10
"""
HALF = """\
data: {ood.near/x: null, ood.far/z: z}
scoring: {detectors.msp: null, detectors.e: Energy, detectors: {knn: {init_args: {k: 10}}}}
"""
FLAGS = ("--data.ood.near/x", "null", "--data.ood.far/z", "z", "--scoring.detectors.msp", "null")
FLAGS = (*FLAGS, "--scoring.detectors.e", "Energy", "--scoring.detectors.knn.init_args.k", "10")
SHORT = (*FLAGS[:-2], "--scoring.detectors.knn.k", "10")


FORMS = {"nested": NESTED, "dotted": DOTTED, "half": HALF, "flags": FLAGS, "short": SHORT}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_changes_one_and_leaves_the_others(
    form: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: Any = FORMS[form]
    if isinstance(arguments, str):
        (tmp_path / "more.yaml").write_text(arguments)
        arguments = ("--config", tmp_path / "more.yaml")
    sets, detectors = resolved(capsys, "--config", base, *arguments)
    assert sets == {"near/x": None, "far/y": "y", "far/z": "z"}
    assert detectors["msp"] is None and detectors["e"][0] == "Energy" and set(detectors) == {"knn", "msp", "e"}
    assert detectors["knn"][0] == "KNN" and detectors["knn"][1]["k"] == 10


@pytest.mark.parametrize("form", ["inside", "file"])
def test_a_detector_given_whole_takes_nothing_from_an_earlier_one(
    form: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"class_path": "KNN", "init_args": {"bank_size": 99}}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    spec: Any = whole if form == "inside" else "whole.yaml"
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"scoring": {"detectors": {"knn": spec}}}))
    _, detectors = resolved(capsys, "--config", base, "--config", tmp_path / "more.yaml")
    assert detectors["knn"][1]["bank_size"] == 99 and detectors["knn"][1]["k"] == KNN().k and "msp" in detectors


def test_a_star_leaves_out_all_before_and_an_option_gives_these_alone(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "these.yaml").write_text("scoring: {detectors: {'*': null, gen: GEN}}")
    for arguments in (("--config", tmp_path / "these.yaml"), ("--scoring.detectors", "{gen: GEN}")):
        sets, detectors = resolved(capsys, "--config", base, *arguments)
        assert list(detectors) == ["gen"] and set(sets) == {"near/x", "far/y"}
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(base), "--scoring.detectors.*", "null"])
    assert "--scoring.detectors.*: write these alone as --scoring.detectors" in capsys.readouterr().err


def test_a_set_may_become_one_of_another_kind(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"near/x": images(9), "far/y": images(9)}
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"data": {"ood": sets}}))
    (tmp_path / "files.yaml").write_text("data: {ood: {near/x: {list: a.txt, folder: b}, far/y: c}}")
    found, _ = resolved(
        capsys, "--config", base, "--config", tmp_path / "classes.yaml", "--config", tmp_path / "files.yaml"
    )
    assert found["near/x"]["list"] == "a.txt" and found["near/x"]["folder"] == "b" and found["far/y"] == "c"


def test_the_example_of_the_page(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "configs.md").read_text()
    block = re.search(r"`less\.yaml`:\n\n```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "less.yaml").write_text(block[1])
    sets, detectors = resolved(capsys, "--config", base, "--config", tmp_path / "less.yaml")
    assert sets == {"near/x": "x", "far/y": "y", "far/mine": "my/folder", "far/white": None}
    assert detectors["knn"][1]["k"] == 20 and detectors["nap"] is None and detectors["msp"] is not None


def test_the_environment_sets_arguments_only_on_request(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_FIT__DATA__BATCH_SIZE", "3")
    for wanted, size in (("false", 128), ("true", 3)):
        monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", wanted)
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(base), "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["data"]["batch_size"] == size


@pytest.mark.parametrize("given", ["lightning.pytorch.loggers.WandbLogger", "true", "false", "null"])
def test_points_of_a_sweep_log_where_the_config_has_a_logger(
    given: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_detectors()
    sweep = Sweep(tmp_path / "s.yaml", ["--config", str(base), "--trainer.logger", given], "grid", None, True, {}, None)
    planned = resolve(sweep, {"scoring.detectors.knn.init_args.k": 9}, Resolver())
    written: list[Any] = []
    monkeypatch.setattr(runs, "start", lambda args, *_: written.append(yaml.safe_load(Path(args[-1]).read_text())) or 0)
    runs._call([planned], tmp_path / "point", 1)
    logger = written[0]["trainer"]["logger"]
    assert (logger["class_path"] == given) if "." in given else logger is (given == "true"), json.dumps(logger)
