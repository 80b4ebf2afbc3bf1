"""The default logger asks nobody and tells nothing secret."""

from pathlib import Path

import pytest

from lightning_ood.tracking import code_version, has_key, wandb_logger


def test_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_key()
    logger = wandb_logger(tmp_path / "runs" / "mine", "test")
    assert logger._offline
    assert logger._wandb_init["group"] == "mine" and logger._wandb_init["job_type"] == "test"


def test_a_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    (tmp_path / "keys").write_text("machine example.org login user password x\n")
    assert not has_key(), "another host's"
    (tmp_path / "keys").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert has_key()
    (tmp_path / "keys").write_text("not a netrc file at all {\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    assert has_key()


def test_the_code_version_names_a_commit() -> None:
    version = code_version()
    assert version["lightning_ood"] and len(version.get("commit", "0" * 12)) >= 12
