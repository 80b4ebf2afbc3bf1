"""Every command of the README, the guide and docs/ is run as it stands there, or stands below with a reason.

docs/extend.md has a test of its own, which reads what the commands print; test_docs_names.py tests the names on pages.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchvision
import yaml

from lightning_ood.commands.cli import main
from tests.helpers.layouts import Downloading, lay_out
from tests.helpers.runs import ROOT
from tests.helpers.tiny import Images

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"), key=str)]
PAGES = [page for page in PAGES if page.name != "extend.md"]
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_HERE = {  # a pattern of commands -> why they are not run here
    r"make (demo|test|check|oldest)": "takes minutes; .ci/run calls test and check, test_configs.py demo's commands",
    r"git clone .*": "needs the network",
    r"python scripts/download/download\.py .*": "is OpenOOD's own and downloads",
    r"torchrun --nnodes 2 .*": "tests/commands/test_torchrun.py runs it, two nodes on one machine",
    r"python train\.py (fit|test) +--config my\.yaml --trainer\.devices 4 --trainer\.strategy ddp":
        "tests/commands/test_distributed.py runs it on two and three processes",
    r"srun .*": "needs a SLURM cluster",
    r"python train\.py monitor .*": "tests/deploy/test_monitor.py runs it; the exit code is the alarm",
    r"python train\.py export .*--format onnx.*": "takes long; tests/deploy/test_graph.py writes and runs the graph",
    r"python train\.py (features|fit|test) .*(--output stored|stored/features\.yaml).*|.* table\.npz":
        "tests/engine/test_recording.py writes tables and runs detectors on them",
    r"python train\.py fit .*configs/selection/nac_me\.yaml":
        "trains for a minute; tests/commands/test_nac_me.py trains with its callback",
    r".*(configs/digits\.yaml|runs/digits).*": "tests/test_configs.py runs the tour",
    r"find photographs .*": "tests/commands/test_export.py reads a list",
    r"wandb .*": "needs an account; tests/commands/test_sweep.py runs W&B's agent on a sweep file",
}  # fmt: skip
SHORTER = {  # a pattern of commands -> what shortens them, or what they need where the network is tests.helpers.tiny's
    r"python train\.py export .*": "--calibration_share 1 --overwrite",
    r"python train\.py predict .*": "--trust_code",
    r".*configs/train/cifar10_resnet18\.yaml.*": "--trainer.max_epochs 1 --trainer.enable_progress_bar false",
}
NESTED = tuple(  # what follows is the user's, or of a class that the user names
    f"--{name}."
    for name in ("scoring.detectors", "data.ood", "data.csid", "model.options", "model.network", "trainer.logger")
)
OF_OTHERS = {
    "--write",
    "--check",
    "--clear-output",
    "--inplace",
    "--kill-on-bad-exit",
}  # of tools.docs, jupyter, srun
MY: dict[str, Any] = {
    "model": {"network": {"class_path": "tests.helpers.tiny.Net"}, "weights": "none"},
    "data": {
        "id": {
            "name": "tints",
            "train": {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": 61}},
            "test": {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": 23, "seed": 1}},
        },
        "ood": {
            "near/pale": {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": 17, "shift": 40, "seed": 2}},
            "far/white": {
                "class_path": "tests.helpers.tiny.Images",
                "init_args": {"size": 12, "shift": 130, "seed": 3},
            },
        },
        "batch_size": 16,
    },
    "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False},
    "scoring": {"detectors": {name: f"configs/detectors/{name}.yaml" for name in ("energy", "nap", "react")}},
}


def commands(page: Path) -> Iterator[str]:
    """Commands of a page's bash blocks, one a line, without remarks."""
    for _, language, text in BLOCK.findall(page.read_text()):
        if language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                command = re.sub(r"(^|\s+)#.*", "", line).strip()
                if command:
                    yield command


def matching(patterns: dict[str, str], command: str) -> str:
    """The pattern of a command; nothing where it has none."""
    return next((pattern for pattern in patterns if re.fullmatch(pattern, command)), "")


QUOTING = {"howto.md", "choose.md"}  # run are those of their commands that no other page has
ELSEWHERE = {
    " ".join(command.split())
    for page in [*PAGES, ROOT / "docs" / "extend.md"]
    if page.name not in QUOTING
    for command in commands(page)
}


def own_commands(page: Path) -> list[str]:
    """Commands of a page that are run for it."""
    kept = (command for command in commands(page) if not matching(NOT_HERE, command))
    return [c for c in kept if page.name not in QUOTING or " ".join(c.split()) not in ELSEWHERE]


WITH_COMMANDS = [page for page in PAGES if own_commands(page)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder after a first run, with runs that others of its commands speak of."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("configs", "experiments", "lightning_ood", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my.yaml").write_text(yaml.safe_dump(MY))
    trained = {"model": {**MY["model"], "finetune": "all"}, "trainer": {**MY["trainer"], "max_epochs": 2}}
    (folder / "my_model.yaml").write_text(yaml.safe_dump({**trained, "scoring": MY["scoring"]}))
    (folder / "data" / "my" / "folder").mkdir(parents=True)
    images = Images(8, shift=60, seed=9)
    for i in range(len(images)):
        images[i][0].save(folder / "data" / "my" / "folder" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LIGHTNING_OOD_DATA", raising=False)
        for job in ("fit", "test"):
            main([job, "--config", "my.yaml"])
    scores = pd.read_parquet(folder / "runs" / "my" / "scores.parquet")
    for seed, name in enumerate(("other", "seed0", "seed1")):
        run = folder / "runs" / name
        run.mkdir()
        noise = np.random.default_rng(seed).normal(size=(len(scores), 3)).astype("float32")
        noisy = {detector: scores[detector] + noise[:, i] for i, detector in enumerate(scores.columns[-3:])}
        scores.assign(**noisy).to_parquet(run / "scores.parquet")
    for name in ("metrics.csv", "provenance.json"):
        shutil.copy(folder / "runs" / "my" / name, folder / "runs" / "other")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_anew")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_its_commands_run(page: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(place, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that a sweep starts
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("LIGHTNING_OOD_DATA", raising=False)
    for name in ("CIFAR10", "CIFAR100", "SVHN"):
        monkeypatch.setattr(torchvision.datasets, name, Downloading)
    for name, language, text in BLOCK.findall(page.read_text()):
        if name and language == "yaml":
            (folder / name).write_text(text)
    for command in own_commands(page):
        call(f"{command} {SHORTER.get(matching(SHORTER, command), '')}", folder, monkeypatch)


def call(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command with a folder's data in the place of /data, in this process, which has imported everything."""
    for path in re.findall(r"configs/benchmarks/\w+\.yaml", command):
        lay_out(yaml.safe_load((ROOT / path).read_text())["data"], folder / "data", count=64)
    words = [word.replace("/data", str(folder / "data")) for word in shlex.split(command)]
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("=", 1))
    elif words[:2] == ["python", "train.py"]:
        try:
            main(words[2:])
        except SystemExit as stop:
            assert not stop.code, command
    else:
        pytest.fail(f"`{command}` is neither run nor listed with a reason why it is not")


def test_what_is_not_run_is_there_and_has_a_reason() -> None:
    every = [command for page in PAGES for command in commands(page)]
    for pattern, reason in {**NOT_HERE, **SHORTER}.items():
        assert any(re.fullmatch(pattern, command) for command in every), f"no page has {pattern}"
        for path in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / path).is_file(), path
