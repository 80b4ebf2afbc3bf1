"""Every YAML is what the program takes; the digits ones are run."""

from __future__ import annotations

import re
from pathlib import Path

import jsonargparse
import pandas as pd
import pytest
import yaml

from lightning_ood.commands.cli import main
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from tests.helpers.runs import ROOT, Run
from tools import demo_images

CONFIGS = ROOT / "configs"
WHOLE = sorted(CONFIGS.glob("*.yaml"), key=str)
PARTIAL = sorted(path for folder in ("suites", "selection", "train") for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((CONFIGS / "detectors").glob("*.yaml"), key=str), ids=lambda path: path.stem)
def test_detectors(path: Path) -> None:
    list_detectors()  # short names are those of imported classes
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Detector, "detector")
    content = "detector:\n" + "".join(f"  {line}\n" for line in path.read_text().splitlines())
    made = parser.instantiate_classes(parser.parse_string(content)).detector
    name = yaml.safe_load(path.read_text())["class_path"]
    assert isinstance(made, Detector) and type(made) is list_detectors()[name]


def test_every_detector_has_a_config() -> None:
    """A new detector is a file and a YAML."""
    written = "".join(path.read_text() for path in (CONFIGS / "detectors").glob("*.yaml"))
    found = list(list_detectors().values())
    assert len(found) > 20
    for kind in found:
        assert re.search(rf"class_path: {kind.__name__}\b", written), kind.__name__


@pytest.mark.parametrize("job", ["fit", "test"])
@pytest.mark.parametrize("path", [*WHOLE, *PARTIAL], ids=lambda path: path.stem)
def test_runs_are_parsed(path: Path, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--config", str(CONFIGS / "digits.yaml")] if path in PARTIAL else []
    with pytest.raises(SystemExit) as stop:
        main([job, *base, "--config", str(path), "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    assert "detectors:" in said.out


def test_a_flag_changes_one_argument_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The arguments beside it stay, also where a set may be an image list with arguments of its own."""
    (tmp_path / "list.yaml").write_text("data: {id: {val: {list: a.txt, folder: b}}}")
    flags = ("--data.id.train.init_args.digits", "[1, 2]", "--data.ood.near/digits_8_9.init_args.seed", "7")
    flags = (*flags, "--data.id.train.init_args.seed", "5", "--data.id.val.folder", "c")
    configs = ("--config", str(CONFIGS / "digits.yaml"), "--config", str(tmp_path / "list.yaml"))
    with pytest.raises(SystemExit):
        main(["fit", *configs, *flags, "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["id"]["train"]["init_args"] == {"split": "train", "digits": [1, 2], "seed": 5}
    assert data["id"]["val"] == {"list": "a.txt", "folder": "c", "keep_size": False}
    assert data["ood"]["near/digits_8_9"]["init_args"] == {"split": "all", "digits": [8, 9], "seed": 7}


def printed_table(text: str) -> list[str]:
    """The lines from the table on."""
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    return lines[next(i for i, line in enumerate(lines) if line == "AUROC") :]


def readme_table() -> list[str]:
    block = re.search(r"```\n(AUROC\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return printed_table(block[1])


def the_tour_is_true(printed: str, train: Run, folder: Path) -> None:
    """Runs what docs/tour.md runs after fit and test; all that it shows is printed."""
    page = (ROOT / "docs" / "tour.md").read_text()
    (folder / "configs").symlink_to(CONFIGS)
    demo_images.main(folder / "runs" / "digits" / "images")
    commands = re.findall(r"^python train\.py (.*)$", page, re.MULTILINE)
    assert commands[:2] == [f"{job} --config configs/digits.yaml" for job in ("fit", "test")] and len(commands) == 5
    for command in commands[2:]:
        done = train(*command.split(), COLUMNS="120")
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    lines = {" ".join(line.split()) for line in printed.splitlines()}
    for block in re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            assert " ".join(line.split()) in lines, line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits_vit"])
def test_digits_from_nothing(name: str, train: Run, tmp_path: Path) -> None:
    config = CONFIGS / f"{name}.yaml"
    fitted = train("fit", "--config", config, timeout=580)
    assert fitted.returncode == 0, fitted.stderr
    tested = train("test", "--config", config, timeout=580)
    assert tested.returncode == 0, tested.stderr
    accuracy = float(re.search(r"accuracy\s+([\d.]+)\s*%", tested.stdout)[1])  # type: ignore[index]
    assert accuracy >= 97
    run = tmp_path / "runs" / name
    metrics = pd.read_csv(run / "metrics.csv")
    assert set(metrics["dataset"]) == {"digits_8_9", "photographs", "textures", "mean"}
    near = metrics[(metrics["detector"] == "energy") & (metrics["dataset"] == "digits_8_9")]
    assert near["auroc"].item() > 85
    assert list((run / "wandb").glob("offline-run-*/*.wandb")), "offline where no key is configured"
    if name == "digits":  # the network comes with the package
        assert readme_table() == printed_table(tested.stdout), "the README shows what a newcomer gets"
        the_tour_is_true(fitted.stdout + tested.stdout, train, tmp_path)
    assert all(len(line) <= 80 for line in tested.stdout.splitlines() if "│" not in line and "/" not in line)
