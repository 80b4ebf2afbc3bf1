"""What the package exports, what importing it costs, and the names that the command line takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import lightning_ood
from lightning_ood.commands import help_text
from lightning_ood.commands.cli import COMMANDS, main
from lightning_ood.commands.help_text import SLOW, help_of
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.report import write_scores
from lightning_ood.report.environment import papers
from tests.helpers.runs import ROOT

DIGITS = ("--config", str(ROOT / "configs" / "digits.yaml"))
LIBRARIES = ("torch", "torchmetrics", "torchvision", "lightning", "timm", "wandb", "matplotlib", "pandas")


class Own(MaxLogit):
    """A user's own detector."""


def imported_by(code: str) -> set[str]:
    """The libraries that a fresh interpreter has imported after ``code``."""
    code = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {LIBRARIES!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_library() -> None:
    assert imported_by("import lightning_ood") == set()


def test_backbone_and_features_need_torch_alone() -> None:
    assert imported_by("from lightning_ood import Backbone, Features, Head, InputError, NetworkInfo") == {"torch"}


def test_detectors_need_neither_lightning_nor_a_logger() -> None:
    tables = "{'OODCallback', 'Evaluation', 'evaluate'}"
    code = f"import lightning_ood\nfor name in set(lightning_ood.__all__) - {tables}: getattr(lightning_ood, name)"
    code += "\nfrom lightning_ood.detectors import KNN"
    assert not {"lightning", "wandb", "timm", "pandas"} & imported_by(code)


@pytest.mark.parametrize("argument", ["--help", "fitt"])
def test_help_and_a_wrong_command_import_no_library(argument: str) -> None:
    code = f"from lightning_ood.commands.cli import main\ntry: main(['{argument}'])\nexcept SystemExit: pass"
    assert imported_by(code) == set()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_imports_no_network(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["-c"])
    if command in SLOW:
        with pytest.raises(SystemExit):
            main([command, "--help", "--help"])  # the parser's own
        live = capsys.readouterr().out
        main([command, "-h"])
        assert capsys.readouterr().out == live, "the first call keeps what the parser prints"
    code = f"from lightning_ood.commands.cli import main\ntry: main(['{command}', '--help'])\nexcept SystemExit: pass"
    assert imported_by(code) <= {"pandas"}


def test_a_kept_help_is_built_again_for_another_package_or_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shows(text: str) -> Callable[[], Callable[[list[str]], None]]:
        return lambda: lambda _: print(text)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [help_of("fit", shows(text)) for text in ("old", "new")] == ["old\n", "old\n"]
    monkeypatch.setattr(help_text, "version", lambda _: "9")
    assert help_of("fit", shows("new")) == "new\n"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [help_of("fit", shows(text)) for text in ("a", "b")] == ["a\n", "b\n"]


def test_a_comparison_of_runs_imports_no_network(tmp_path: Path, scores: pd.DataFrame) -> None:
    write_scores(scores, tmp_path / "a")
    code = f"from lightning_ood.commands.cli import main\nmain(['compare', {str(tmp_path / 'a')!r}])"
    assert imported_by(code) == {"pandas"}


def test_every_export_exists_and_no_other() -> None:
    assert set(lightning_ood.__all__) <= set(dir(lightning_ood))
    for name in lightning_ood.__all__:
        assert getattr(lightning_ood, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        lightning_ood.nothing  # noqa: B018


def test_one_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines() if line.startswith("  ")} == set(COMMANDS)
    assert set(COMMANDS) >= {"check", "fit", "test", "fit_test", "report", "compare", "sweep"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fitt"], "there is no command 'fitt' (did you mean fit"),
        (["Report"], "did you mean report"),
        (["xyzzy"], "there is no command 'xyzzy'; the commands are check, fit"),
        ([], "the command comes first"),
        (["--config", "my.yaml"], "the command comes first"),
    ],
)
def test_an_unknown_command_is_one_sentence(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


def test_help_of_fit_lists_every_detector_and_no_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help"])
    shown = capsys.readouterr().out
    listed = shown.split("--scoring.detectors DETECTORS")[-1].replace(",", " ").replace(";", " ").split()
    assert not [name for name in list_detectors() if name not in listed]
    assert "torchvision.datasets" not in shown and "torch.nn.Linear" not in shown


def kind(spec: Any) -> type:
    """The class of a detector in a resolved config."""
    module, _, name = spec["class_path"].rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def test_short_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a file, as a flag, in the arguments of another detector; a path of a class still works beside them."""
    (tmp_path / "more.yaml").write_text("scoring: {detectors: {a: {class_path: KNN, init_args: {k: 7}}, b: Energy}}")
    nap = {"class_path": "NAP", "init_args": {"base": "MSP", "pseudo_ood": ["Invert"]}}
    fusion = {"class_path": "Fusion", "init_args": {"of": {"knn": "KNN", "nap": nap}, "rule": "RobustZ"}}
    flags = ("--scoring.detectors.m", "MSP", "--scoring.detectors.f", json.dumps(fusion))
    flags += ("--scoring.detectors.own", f"{__name__}.Own", "--scoring.detectors.a.init_args.bank_size", "9")
    with pytest.raises(SystemExit) as stop:
        main(["fit", *DIGITS, "--config", str(tmp_path / "more.yaml"), *flags, "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    found = yaml.safe_load(said.out)["scoring"]["detectors"]
    known = list_detectors()
    assert [kind(found[name]) for name in ("m", "a", "b")] == [known["MSP"], known["KNN"], known["Energy"]]
    assert kind(found["own"]) is Own
    assert found["a"]["init_args"]["k"] == 7 and found["a"]["init_args"]["bank_size"] == 9
    members, rule = found["f"]["init_args"]["of"], found["f"]["init_args"]["rule"]
    assert kind(members["knn"]) is known["KNN"] and kind(rule).__name__ == "RobustZ"
    arguments = members["nap"]["init_args"]
    assert kind(arguments["base"]) is known["MSP"] and kind(arguments["pseudo_ood"][0]).__name__ == "Invert"


def test_a_detector_given_by_its_short_name_is_cited() -> None:
    exported, defined = "lightning_ood.detectors.KNN", "lightning_ood.detectors.knn.KNN"
    config = {"a": {"class_path": exported}, "b": {"class_path": defined}, "c": {"class_path": "not.here.Own"}}
    text = yaml.safe_dump({"scoring": {"detectors": config}})
    assert papers(text, ["a"]) == papers(text, ["b"]) != [] and papers(text, ["c"]) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("msp", "there is no class msp; write MSP"),
        ('{"class_path": "Fusoin"}', "there is no class Fusoin; write Fusion"),
        ('{"class_path": "NAP", "init_args": {"base": "Enregy"}}', "there is no class Enregy; write Energy"),
        ("Qwertz", "there is no class Qwertz; write one of AdaSCALE, ASH, BFAct"),
    ],
)
def test_a_wrong_short_name_is_one_sentence(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *DIGITS, "--scoring.detectors.m", value, "--print_config"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1, said
