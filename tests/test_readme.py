"""What the README and the guide say works as it stands there; docs/extend.md has a test of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.tiny import Net

README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


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
    exec(blocks(README, "python")[0].replace("(224, 224)", "(12, 12)"), scope)
    assert scope["score"].shape == (8,) and scope["score"].isfinite().all()


def test_files_and_options_that_are_named_exist() -> None:
    for text in (README, GUIDE):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), target
    for path in re.findall(r"configs/[\w/]+\.yaml", README):
        assert (ROOT / path).is_file(), path
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in blocks(README, "bash")[0].splitlines() if line.startswith("make")} <= targets


def test_the_readmes_config_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_ood.cli import main

    content = yaml.safe_load(blocks(README, "yaml")[0])
    content["data"]["ood"].pop("far/textures")  # a torchvision set is opened when it is named
    content["scoring"]["detectors"] = {
        name: str(ROOT / "configs" / path) for name, path in content["scoring"]["detectors"].items()
    }
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump(content))
    for line in blocks(README, "bash")[2].replace("\\\n", " ").splitlines():
        words = shlex.split(line.split("#")[0])[1:]
        if words[1] == "report":
            continue
        words = [str(config) if word == "my.yaml" else word for word in words[1:] if word != "--print_taps"]
        with pytest.raises(SystemExit) as stop:
            main([*words, "--print_config"])
        assert stop.value.code == 0, capsys.readouterr().err
