"""A run that goes on: with one detector more, after a death, from its scores alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.helpers.runs import CORE, DETECTORS, ROOT, Run


def test_fit_again_fits_only_what_is_new(config: Path, train: Run, tmp_path: Path) -> None:
    assert train("fit", "--config", config).returncode == 0
    last = tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)["callbacks"]["ScoringCallback"]["fitted"]
    more = ("--scoring.detectors.mds", DETECTORS / "mds.yaml", "--scoring.detectors.dice.init_args.percentile", 50)
    again = train("fit", "--config", config, *more)
    assert again.returncode == 0, again.stderr
    assert "Keeping the fit of react, line, nac, feature_norm" in again.stdout
    assert "Fitting dice, mds\n" in again.stdout
    after = torch.load(last, weights_only=True)["callbacks"]["ScoringCallback"]["fitted"]
    assert list(after) and set(after) == {*before, "mds"}
    assert torch.equal(after["nac"]["counts.pooled"], before["nac"]["counts.pooled"])
    assert not torch.equal(after["dice"]["weight"], before["dice"]["weight"])

    nothing = train("fit", "--config", config, *more)
    assert "no detector" in nothing.stdout, "a finished fit is not repeated"
    everything = train("fit", "--config", config, *more, "--overwrite")
    assert (
        "Keeping" not in everything.stdout and "Fitting react, dice, line, nac, feature_norm, mds" in everything.stdout
    )
    other = train("fit", "--config", config, *more, "--data.id.train.init_args.seed", 9)
    assert "Keeping" not in other.stdout, "the fit of other images is not kept"
    network = train("fit", "--config", config, *more, "--model.network.init_args.seed", 9)
    assert "Keeping" not in network.stdout, "nor that of another network"


def test_report_needs_no_network(config: Path, train: Run, tmp_path: Path) -> None:
    assert train("fit", "--config", config).returncode == 0
    assert train("test", "--config", config).returncode == 0
    run = tmp_path / "runs" / "tiny"
    metrics = pd.read_csv(run / "metrics.csv")
    (run / "metrics.csv").unlink()
    for picture in (run / "report").iterdir():
        picture.unlink()
    done = train("report", run)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(run / "metrics.csv"), metrics)
    assert (run / "report" / "index.html").is_file() and "energy" in done.stdout
    some = train("report", run, "--detectors", "energy", "nap")
    assert some.returncode == 0 and set(pd.read_csv(run / "metrics.csv")["detector"]) == {"energy", "nap"}
    wrong = train("report", run, "--detectors", "knn")
    assert wrong.returncode == 2 and "no scores of knn" in wrong.stderr and ", ".join(CORE) in wrong.stderr
    nowhere = train("report", tmp_path / "no")
    assert nowhere.returncode == 2 and "no scores at" in nowhere.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "victim", "slow_ranks"),  # one that is not slow waits for the victim in an exchange, which then fails
    [("fit", 0, "01"), ("fit", 1, "1"), ("test", 0, "0"), ("test", 1, "01")],
)
def test_a_process_that_dies_ends_the_run(
    config: Path, train: Run, tmp_path: Path, job: str, victim: int, slow_ranks: str
) -> None:
    run = tmp_path / "runs" / "tiny"
    assert train("fit", "--config", config).returncode == 0
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    slow = ("--scoring.detectors.slow", "tests.helpers.tiny.Slow")  # a second per batch, and says where it is
    command = [sys.executable, ROOT / "train.py", job, "--config", config, "--trainer.devices", 2]
    command += ["--trainer.strategy", "ddp", *(slow if job == "fit" else ())]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SLOW_MARKS": str(tmp_path),
        "SLOW_RANKS": slow_ranks,
    }
    if job == "test":
        assert train("fit", "--config", config, *slow).returncode == 0
        whole = (run / "checkpoints" / "last.ckpt").read_bytes()
        command += slow
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment,
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    mark = tmp_path / f"{job}-{victim}"
    limit = time.monotonic() + 240
    while not mark.is_file() and time.monotonic() < limit:
        time.sleep(0.2)
    assert mark.is_file(), (tmp_path / "said").read_text()
    time.sleep(2 if len(slow_ranks) == 1 else 0)  # the other one begins to wait
    os.kill(int(mark.read_text()), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    limit = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):  # nobody is left behind
        while time.monotonic() < limit:
            os.killpg(process.pid, 0)
            time.sleep(0.2)
    text = (tmp_path / "said").read_text()
    assert "-9" in text and ("rank: 1" in text or "process 1 died" in text) if victim else "process 0 died" in text

    assert json.loads((run / "unfinished.json").read_text())["job"] == job
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == whole, "what was whole is untouched"
    assert not (run / "scores.parquet").exists()
    again = train(job, "--config", config, *(slow if job == "test" else ()))
    assert again.returncode == 0 and f"The last {job} in runs/tiny" in again.stdout and "did not finish" in again.stdout
    assert not (run / "unfinished.json").exists()
