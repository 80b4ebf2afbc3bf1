"""The W&B logger asks nobody, tells nothing secret, and takes what its user says over what is usual here."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from lightning_ood.engine.tracking import closing, code_version, has_key, hyperparameters, make_ready, prepare
from lightning_ood.errors import InputError
from lightning_ood.report.fit_record import FitRecord, write_record
from tests.helpers.wandb_server import wandb_server


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key, and an environment that says nothing of W&B."""
    names = ("MODE", "API_KEY", "TAGS", "RUN_GROUP", "JOB_TYPE", "NAME", "SWEEP_ID", "PROJECT", "LOG_MODEL", "DATA_DIR")
    names += ("BASE_URL",)
    for name in ("NETRC", "WANDB_SILENT", *(f"WANDB_{name}" for name in names)):
        monkeypatch.setenv(name, "")  # so that what is set later is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_offline_without_a_key(nobody: Path) -> None:
    assert not has_key()
    logger = prepare(WandbLogger(), nobody / "runs" / "mine", "test", ["cifar10", "r" * 100])
    assert logger._offline
    said = logger._wandb_init
    assert (said["group"], said["job_type"], said["name"]) == ("mine", "test", "mine-test")
    assert said["tags"] == ["cifar10", "r" * 64], "W&B refuses longer ones"
    assert said["project"] == "lightning_ood" and logger.save_dir == str(nobody / "runs" / "mine")


def test_what_the_user_says_counts(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_JOB_TYPE", "ablation")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    own = WandbLogger(project="theirs", group="all", save_dir=nobody / "there")
    logger = prepare(own, nobody / "mine", "test", ["cifar10"])
    said = logger._wandb_init
    assert (said["project"], said["group"], said["dir"]) == ("theirs", "all", str(nobody / "there"))
    assert "job_type" not in said and "tags" not in said, "W&B reads them from the environment"
    assert said["name"] == "mine-ablation" and not logger._log_model
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    logger = prepare(WandbLogger(), nobody / "mine", "fit_test")
    assert logger._wandb_init["name"] is None and "group" not in logger._wandb_init, "the sweep names and groups them"
    assert logger._log_model


def test_no_answer_is_an_offline_run(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.errors.CommError("nobody there")

    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setattr("lightning_ood.engine.tracking.reachable", lambda url: True)
    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match=r"nobody there\): this run is logged offline"):
        assert prepare(WandbLogger(), nobody / "mine", "fit")._offline


@pytest.mark.parametrize("fault", ["no network", "short key"])
def test_the_run_goes_on_offline_within_seconds(
    fault: str, nobody: Path, monkeypatch: pytest.MonkeyPatch, wandb_anew: None
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * (4 if fault == "no network" else 1))
    began = time.monotonic()
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9" if fault == "no network" else server.url)
        logger = WandbLogger()
        with pytest.warns(UserWarning, match="W&B does not answer .*: this run is logged offline"):
            make_ready([logger], nobody / "mine", "fit")
        logger.log_metrics({"auroc": 1.0})
        assert time.monotonic() - began < 20, "10 on an idle machine"
        assert logger.experiment.settings.mode == "offline" and logger.experiment.summary["auroc"] == 1
        logger.experiment.finish()
    assert list((nobody / "mine").glob("wandb/offline-run-*")) and "WANDB_MODE" in os.environ


def test_one_run_continues_that_of_the_fit(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = nobody / "mine"
    said = []
    for job, record in (("test", None), ("fit", FitRecord(run_id="of_fit")), ("test", FitRecord(run_id="of_fit"))):
        if record is not None:
            write_record(folder, record)
        make_ready([logger := WandbLogger()], folder, job, one_run=True)
        said.append((logger._wandb_init["id"], logger._wandb_init["job_type"], logger._wandb_init["resume"]))
    assert said == [(None, "fit_test", "allow"), (None, "fit_test", "allow"), ("of_fit", "fit_test", "allow")]
    assert capsys.readouterr().out.count("no fit in") == 1


@pytest.mark.parametrize("name", ["a/b", "a#b", "x" * 129])
def test_a_project_that_wandb_does_not_take_is_one_sentence(
    name: str, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", name)
    with pytest.raises(InputError, match=f"WANDB_PROJECT .* is '{name}': .* write the team in WANDB_ENTITY"):
        make_ready([WandbLogger()], nobody / "mine", "fit")


class Failing(CSVLogger):
    """Its server is gone."""

    @property
    def experiment(self) -> Any:
        raise ConnectionError("experiment")

    @property
    def log_dir(self) -> str:
        raise ConnectionError("log_dir")

    def log_metrics(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("log_metrics")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("log_hyperparams")

    def save(self) -> None:
        raise ConnectionError("save")

    def finalize(self, status: str) -> None:
        raise ConnectionError("finalize")


def test_a_logger_that_fails_at_every_call_is_told_once_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = Failing(tmp_path)
    make_ready([logger], tmp_path, "fit")
    for _ in range(3):
        logger.log_metrics({"a": 1.0})
        logger.log_hyperparams({})
        logger.experiment.summary["a"] = logger.experiment.log({"a": 1})
        logger.save()
        logger.finalize("success")
        assert logger.log_dir is None and logger.save_dir == str(tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 6 and all(line.startswith("warning: Failing failed (ConnectionError: ") for line in told)
    assert isinstance(logger, Failing) and type(logger).__name__ == "Failing"


def test_a_key_is_found(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(nobody / "keys"))
    (nobody / "keys").write_text("machine example.org login user password x\n")
    assert not has_key(), "another host's"
    (nobody / "keys").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert has_key()
    (nobody / "keys").write_text("not a netrc file at all {\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    assert has_key()


def test_what_ends_badly_is_told_and_the_exit_code_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    codes = []

    class Run:
        def finish(self, exit_code: int) -> None:
            codes.append(exit_code)
            raise OSError("broken pipe")

    for code in (0, 3):
        monkeypatch.setattr(wandb, "run", None)
        with pytest.raises(SystemExit) as stop, closing():
            monkeypatch.setattr(wandb, "run", Run())
            raise SystemExit(code)
        assert stop.value.code == code
    assert codes == [0, 3] and "broken pipe" in capsys.readouterr().err
    with closing():
        pass
    assert len(codes) == 2, "a run that was there before is its owner's"


def test_the_code_version_names_a_commit() -> None:
    version = code_version()
    assert version["lightning_ood"] and len(version.get("commit", "0" * 12)) >= 12


def test_secrets_are_blanked() -> None:
    logger = {"init_args": {"api_key": "x", "project": "p", "tokens": ["kept"]}}
    said = hyperparameters({"trainer": {"logger": [logger]}, "data": {"root": Path("/data"), "token": None}})
    assert said["trainer"]["logger"] == [{"init_args": {"api_key": "***", "project": "p", "tokens": ["kept"]}}]
    assert said["data"] == {"root": "/data", "token": None} and said["lightning_ood"]
