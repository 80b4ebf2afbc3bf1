"""A trainer that cannot be made, or would make another network, is refused in one sentence; SLURM's variables too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_ood.commands import cli
from lightning_ood.commands.check.make import make_trainer
from lightning_ood.engine.exact import check_exact
from lightning_ood.engine.launch import making_trainer
from lightning_ood.errors import InputError
from tests.helpers.tiny import quiet_trainer

CASTS = ("bf16-true", "16-true", "64-true", "64", "transformer-engine")


@pytest.mark.parametrize("precision", CASTS)
@pytest.mark.parametrize("command", ["check", "fit", "test"])
def test_a_precision_that_casts_weights_is_refused_alike(
    command: str, precision: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--config", str(config), "--trainer.precision", precision])
    printed = capsys.readouterr()  # type: ignore[attr-defined]
    said = " ".join((printed.out + printed.err).split())
    assert stop.value.code == (1 if command == "check" else 2) and "Traceback" not in said
    assert f"--trainer.precision {precision} casts the network's weights" in said and "write bf16-mixed" in said


@pytest.mark.parametrize("precision", [None, 32, "32-true", "bf16-mixed", "16-mixed", "bf16"])
def test_a_precision_that_keeps_them_is_not(precision: object) -> None:
    with making_trainer(precision):
        trainer = quiet_trainer([], **({} if precision is None else {"precision": precision}))
    check_exact(trainer)


def test_what_lightning_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^the trainer cannot be made: .*num_nodes"), making_trainer():
        quiet_trainer([], num_nodes=0)
    with pytest.raises(InputError, match="the trainer cannot be made"):
        make_trainer({"accelerator": "cpu", "strategy": "nonsense", "precision": None})


def test_a_job_of_slurm_that_srun_did_not_start_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with making_trainer():
        trainer = quiet_trainer([])
    assert trainer.world_size == 1
    check_exact(trainer)
    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(InputError, match="ntasks-per-node"), making_trainer():
        quiet_trainer([])
    assert os.environ["SLURM_JOB_NAME"] == "mine"


@pytest.mark.parametrize(("name", "value", "expected"), [("RANK", "x", "no number"), ("LOCAL_RANK", "1", "process 1")])
def test_a_rank_in_the_environment(name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = quiet_trainer([])
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=expected):
        check_exact(trainer)
