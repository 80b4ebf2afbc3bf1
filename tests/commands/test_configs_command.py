"""The configs that come with the package: the list of them, and their names in place of paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_ood.commands import configs
from lightning_ood.commands.cli import main
from tests.helpers.runs import ROOT


def test_the_list_names_every_config(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    listed = [line.removeprefix("pkg:") for line in capsys.readouterr().out.splitlines() if line.startswith("pkg:")]
    there = (ROOT / "configs").rglob("*.yaml")
    assert sorted(listed) == sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in there)
    main(["configs", "pkg:digits"])
    assert capsys.readouterr().out == (ROOT / "configs" / "digits.yaml").read_text()


def test_a_name_stands_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, knn = ROOT / "configs" / "digits.yaml", ROOT / "configs" / "detectors" / "knn.yaml"
    assert configs.expand("pkg:digits") == configs.expand("pkg:digits.yaml") == str(digits)
    assert configs.expand("--scoring.detectors.k=pkg:detectors/knn") == f"--scoring.detectors.k={knn}"
    for other in ("--overwrite", "my.yaml", "--data.id.name=a pkg:b", "--trainer.logger=false"):
        assert configs.expand(other) == other


def test_a_name_is_taken_by_the_commands_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=pkg:digits", "--scoring.detectors.k", "pkg:detectors/knn", "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    assert {"k", "energy", "nap"} <= set(yaml.safe_load(said.out)["scoring"]["detectors"])


@pytest.mark.parametrize(
    ("name", "message"), [("digts", "write pkg:digits"), ("../secret", "write a name that the command `configs` lists")]
)
def test_a_wrong_name_is_one_sentence(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", f"pkg:{name}"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1
