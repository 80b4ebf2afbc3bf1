"""Secrets stand in no file and no output of a run, and its saved config alone repeats it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.helpers.runs import Run

PASSWORD, TOKEN = "planted-password-1", "planted-token-2"


@pytest.mark.slow
def test_planted_secrets_are_in_no_file_of_a_run(config: Path, train: Run, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    del content["trainer"]["logger"]  # W&B, offline
    content["scoring"]["detectors"] = {name: content["scoring"]["detectors"][name] for name in ("energy", "react")}
    url = f"https://me:{PASSWORD}@host/images"
    locked = {"class_path": "tests.helpers.tiny.Locked", "init_args": {"token": "", "url": url, "size": 61}}
    content["data"]["id"]["train"] = locked
    locked_too = {**locked, "init_args": {**locked["init_args"], "token": TOKEN, "size": 17}}
    content["data"]["ood"]["near/pale"] = {**locked_too, "class_path": "tests.helpers.tiny.Locked"}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    run = tmp_path / "runs" / "tiny"
    environment = {"EXPECTED_FIRST": TOKEN, "EXPECTED_SECOND": url, "WANDB_MODE": "offline"}

    flags = ("--data.id.train.init_args.token", TOKEN)
    for job in ("fit", "test"):
        done = train(job, "--config", config, *flags, **environment)
        assert done.returncode == 0, done.stderr
        assert "planted-" not in done.stdout + done.stderr
    first = pd.read_parquet(run / "scores.parquet")
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    assert list(run.glob("wandb/offline-run-*/*.wandb")) and len(files) > 15
    found = [path for path in files if b"planted-" in path.read_bytes()]
    assert not found, found
    saved = yaml.safe_load((run / "config.yaml").read_text())
    variable = "LIGHTNING_OOD_DATA_ID_TRAIN_TOKEN"
    assert saved["data"]["id"]["train"]["init_args"]["token"] == f"${{{variable}}}"

    unset = train("test", "--config", run / "config.yaml", **environment)
    assert unset.returncode == 2 and "is not set" in unset.stderr and "Traceback" not in unset.stderr
    places = ("DATA_ID_TRAIN", "DATA_OOD_NEAR_PALE")
    names = {f"LIGHTNING_OOD_{place}_TOKEN": TOKEN for place in places}
    names |= {f"LIGHTNING_OOD_{place}_URL_PASSWORD": PASSWORD for place in places}
    again = train("test", "--config", run / "config.yaml", **environment, **names)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(run / "scores.parquet"), first, check_exact=True)
