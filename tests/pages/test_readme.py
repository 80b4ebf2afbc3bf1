"""The README's examples work as they stand there; its commands are run by test_docs_commands.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers.runs import ROOT
from tests.helpers.tiny import Images, Net

README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readmes_library_example_runs() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, 12, 12, generator=generator)
    scope: dict[str, Any] = {
        "torch": torch,
        "my_network": Net(),
        "images": images[:5],
        "train_batches": [(images[i : i + 8], torch.arange(i, i + 8)) for i in range(0, 40, 8)],
    }
    exec(blocks(README, "python")[1].replace("(224, 224)", "(12, 12)"), scope)
    assert scope["scores"].shape == (8, 2) and scope["scores"].isfinite().all()
    assert not scope["failed"]


def test_the_readmes_one_call_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"train_set": Images(60), "test_set": Images(30, seed=1), "other_set": Images(20, shift=90)}
    exec(blocks(README, "python")[0], {"my_network": Net(), **sets})
    assert "other" in capsys.readouterr().out


def test_make_knows_what_the_readme_calls() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {line.split()[1] for line in blocks(README, "bash")[0].splitlines()}
    assert called == {"demo", "test"} and called <= targets


def test_the_readmes_config_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_ood.commands.cli import main

    content = yaml.safe_load(blocks(README, "yaml")[0])
    content["data"]["ood"].pop("far/textures")  # a torchvision set is opened when it is named
    content["scoring"]["detectors"] = {name: str(ROOT / path) for name, path in content["scoring"]["detectors"].items()}
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump(content))
    for job in ("check", "fit", "test"):
        with pytest.raises(SystemExit) as stop:
            main([job, "--config", str(config), "--print_config"])
        assert stop.value.code == 0, capsys.readouterr().err


def test_the_readmes_table_is_of_the_config_that_make_demo_runs() -> None:
    detectors = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())["scoring"]["detectors"]
    table = README[README.index("\nAUROC\n") :].partition("In-distribution")[0]
    rows = re.findall(r"^(\w+)(?: !)? .*\d", table, re.MULTILINE)
    rows = [name for name in rows if name != "detector"]
    assert len(rows) == 2 * len(detectors) and set(rows) == set(detectors)
