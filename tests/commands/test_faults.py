"""Errors of the machine are sentences with exit code 2; bugs stay tracebacks; damaged files of a run are named."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_ood.commands import cli
from lightning_ood.commands.faults import sentence
from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.specs import TestSet
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.errors import InputError, context
from lightning_ood.report import RunResults, write_scores
from lightning_ood.report.publish import publish
from lightning_ood.report.results import table_of
from tests.helpers.runs import Run
from tests.helpers.tiny import quiet_trainer


def raised(error: BaseException) -> Callable[[list[str]], None]:
    def command(args: list[str]) -> None:
        with context("detector 'knn'"):  # wraps what is no InputError
            raise error

    return command


FAULTS = [
    (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), "/runs/a: the disk is full"),
    (OSError(errno.EROFS, "Read-only file system", "/runs/a"), "/runs/a: this file system is read-only"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: this user may not read or write it"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: a part of this path is a file"),
    (
        RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file"),
        "disk is full",
    ),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that its workers are out "
            "of shared memory."
        ),
        "--shm-size",
    ),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "lower --data.num_workers"),
    (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "ended from outside"),
    (MisconfigurationException("No supported gpu backend found!"), "trainer cannot be made: No supported gpu"),
    (torch.OutOfMemoryError("CUDA out of memory"), "lower --data.batch_size"),
    (InputError("no such set"), "no such set"),
]


@pytest.mark.parametrize(("error", "expected"), FAULTS, ids=[type(e).__name__ + said[:12] for e, said in FAULTS])
def test_a_fault_of_the_machine_is_a_sentence(
    error: BaseException, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_find", lambda args: raised(error))
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and expected in said and "Traceback" not in said and said.startswith("error: ")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--debug"])
    said = capsys.readouterr().err
    assert "Traceback" in said and expected in said.splitlines()[-1]


@pytest.mark.parametrize("error", [KeyError("weight"), RuntimeError("shapes differ"), OSError("odd"), TypeError("int")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sentence(error) is None
    monkeypatch.setattr(cli, "_find", lambda args: raised(error))
    with pytest.raises(RuntimeError, match="knn"):
        cli.main(["fit"])


def test_an_argument_that_lightning_does_not_check() -> None:
    trainer = quiet_trainer([], check_val_every_n_epoch=0, max_epochs=1)
    with pytest.raises(ZeroDivisionError) as error:
        trainer.fit(BoringModel())
    assert "these arguments of the trainer: ZeroDivisionError" in (sentence(error.value) or "")


@pytest.mark.parametrize("damage", [b"seed_everything: !!timestamp 99", b"seed_everything: \xe7"])
def test_a_config_that_yaml_cannot_read(damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.yaml").write_bytes(damage)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--config", str(tmp_path / "odd.yaml")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "config" in said and "Traceback" not in said


def test_a_trainer_that_cannot_be_made(config: Path, train: Run) -> None:
    done = train("check", "--config", config, "--trainer.accelerator", "gpu")
    assert "Traceback" not in done.stderr + done.stdout and done.returncode in (1, 2)
    done = train("fit", "--config", config, "--trainer.accelerator", "gpu")
    assert done.returncode == 2 and "trainer cannot be made" in done.stderr and "Traceback" not in done.stderr


DAMAGE = {
    "scores.parquet": (b"", "cannot be read as a table"),
    "report/fits.json": (b'{"summaries": [1]}', "delete it"),
    "config.test.yaml": (b"a: [", "delete it"),
    "doubts.csv": (b"a,b\n1,2\n", "delete it"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.scores import make_scores

    run = tmp_path_factory.mktemp("whole")
    table = make_scores(["msp", "energy"], [("photos", "far")])
    write_scores(table, run)
    results = RunResults(table, config="data: {root: .}")
    results.save(run)
    publish(results, run)
    (run / "config.test.yaml").write_text("data: {root: .}")
    return run


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_of_a_run_is_named(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    content, expected = DAMAGE[name]
    (run / name).write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(run)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and str(run / name) in said and expected in said
    if expected == "delete it":
        (run / name).unlink()
        cli.main(["report", str(run)])


def test_a_damaged_marker_and_the_partial_files_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("notes/thesis.partial", ".metrics.csv.12.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / "unfinished.json").write_text("{")
    with RunFolder(tmp_path).under_way("fit"):
        assert (tmp_path / "notes" / "thesis.partial").is_file() and not (tmp_path / ".metrics.csv.12.partial").exists()
    assert "did not finish" in capsys.readouterr().out


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.under_way("fit"):
        with (
            pytest.raises(InputError, match=r"another run is under way .* --trainer\.default_root_dir"),
            second.under_way("test"),
        ):
            pass
        assert (tmp_path / "unfinished.json").is_file(), "the first one's"
    with second.under_way("test"):
        pass
    child = os.fork()
    if not child:  # dies in the middle
        with first.under_way("fit"):
            os._exit(9)
    os.waitpid(child, 0)
    with second.under_way("fit"):
        pass


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")

    class Named:
        paths = (name,)

        def __len__(self) -> int:
            return 1

        def position(self, index: int) -> int:
            return index

    data = OODDataModule.__new__(OODDataModule)
    data.__dict__["limit"] = None
    data.__dict__["sets"] = {"id/test": TestSet("id", "id", "", Named())}  # type: ignore[arg-type]
    table = table_of(torch.tensor([[0, 0, 1, 1]]).numpy(), torch.zeros(1, 1).numpy(), ["msp"], data)
    write_scores(table.assign(msp=table["msp"].astype("float32")), tmp_path)
    assert pd.read_parquet(tmp_path / "scores.parquet")["path"].tolist() == ["caf\\xe9.png"]
