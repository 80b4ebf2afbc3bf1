"""The W&B logger asks nobody, tells nothing secret, and takes what its user says over what is usual here."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_ood.engine.tracking import closing, code_version, has_key, hyperparameters, prepare


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key, and an environment that says nothing of W&B."""
    names = ("MODE", "API_KEY", "TAGS", "RUN_GROUP", "JOB_TYPE", "NAME", "SWEEP_ID", "PROJECT", "LOG_MODEL", "DATA_DIR")
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
    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match="logged offline"):
        assert prepare(WandbLogger(), nobody / "mine", "fit")._offline


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
