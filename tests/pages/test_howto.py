"""docs/howto.md: its Python stands on the page that it links to, where it is run, and its YAML is parsed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_ood.commands.cli import main
from tests.helpers.runs import ROOT
from tests.pages.test_docs_commands import BLOCK

PAGE = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
BLOCKS = [(language, text) for _, language, text in BLOCK.findall(PAGE)]


def test_its_python_is_that_of_own_code() -> None:
    there = (ROOT / "docs" / "own_code.md").read_text(encoding="utf-8").splitlines()
    lines = [line for language, text in BLOCKS if language == "python" for line in text.splitlines()]
    assert len(lines) > 5 and not set(lines) - set(there)


@pytest.mark.parametrize("block", [text for language, text in BLOCKS if language == "yaml"])
def test_its_yaml_is_parsed(block: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "block.yaml").write_text(block)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "pkg:digits", "--config", str(tmp_path / "block.yaml"), "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_every_task_has_a_command_or_a_link() -> None:
    tasks = PAGE.split("\n## ")[1:]
    assert len(tasks) > 15
    for task in tasks:
        assert "](" in task and ("```" in task or "extend.md" in task), task.partition("\n")[0]
