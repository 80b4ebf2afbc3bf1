"""The wheel, installed alone: it carries the configs and runs from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "lightning_ood", "configs", "requirements")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(copy / "out")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True, capture_output=True)
    (made,) = (copy / "out").glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_runs_and_declares_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
        (metadata,) = (file.read(name).decode() for name in held if name.endswith(".dist-info/METADATA"))
    package = {path.relative_to(ROOT) for path in (ROOT / "lightning_ood").rglob("*") if path.is_file()}
    configs = {"lightning_ood" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.as_posix() for path in package | configs if "__pycache__" not in path.parts} <= held
    assert not {name for name in held if name.split("/")[0] in ("tests", "tools", "experiments")}
    declared = Parser().parsestr(metadata)
    assert set(declared.get_all("Provides-Extra") or []) == {"digits", "sweep", "onnx", "hf"}
    core = {line for line in declared.get_all("Requires-Dist") or [] if "extra ==" not in line}
    assert any(line.startswith("torch>") for line in core)
    assert not [line for line in core if line.startswith(("optuna", "scikit", "onnx", "pytest"))]


@pytest.mark.slow
def test_an_installed_wheel_fits_tests_exports_and_predicts_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    home, work = tmp_path / "venv", tmp_path / "work"
    venv.create(home, symlinks=True)
    work.mkdir()
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # the dependencies, not installed again
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def call(*arguments: str) -> str:
        command = [str(home / "bin" / "lightning-ood"), *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "fit_test" in call("--help")
    listed = call("configs")
    assert str(site) in listed and "pkg:digits\n" in listed and "pkg:detectors/knn\n" in listed
    config = ("--config", "pkg:digits", "--scoring.detectors", "{energy: Energy}", "--trainer.logger=false")
    more = ("--scoring.detectors.knn", "pkg:detectors/knn")
    assert "textures" in call("fit_test", *config, *more)
    call("export", *config, *more, "--detector", "knn", "--calibration_share", "0.5", "--output", "deployed")
    image = next(Path(sysconfig.get_path("purelib")).glob("sklearn/datasets/images/china.jpg"))
    assert "china.jpg" in call("predict", "--detector", "deployed", "--format", "csv", str(image))
