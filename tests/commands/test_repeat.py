"""The same config and seed give the same bits; a run's own config alone repeats it; a run says what it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from tests.helpers.runs import ROOT, Run

DIGITS = ROOT / "configs" / "digits.yaml"
LEFT_OUT = [f"--data.ood.far/{name}" for name in ("photographs", "textures")]
LEFT_OUT += [f"--scoring.detectors.{name}" for name in ("maxlogit", "dice", "line", "nap", "feature_norm", "fusion")]
FEWER = ("--trainer.logger", "false", *(word for option in LEFT_OUT for word in (option, "null")))


def test_the_same_config_and_seed_give_the_same_bits(train: Run, tmp_path: Path) -> None:
    """The shipped network on its digits, fitted and tested twice; the second test has the config of the run alone."""
    found = []
    for name in ("one", "two"):
        run = tmp_path / name
        where = ("--config", DIGITS, *FEWER, "--trainer.default_root_dir", run)
        commands = {"one": [("fit_test", *where)], "two": [("fit", *where), ("test", "--config", run / "config.yaml")]}
        for command in commands[name]:
            done = train(*command)
            assert done.returncode == 0, done.stderr
        found.append((pd.read_parquet(run / "scores.parquet"), (run / "metrics.csv").read_bytes()))
    (scores, table), (again, table_again) = found
    assert scores.equals(again) and len(scores) > 600 and table == table_again
    _says_what_it_was_made_of(tmp_path / "two")


def _says_what_it_was_made_of(run: Path) -> None:
    found = json.loads((run / "provenance.json").read_text())
    versions = {"lightning_ood", "python", "torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy"}
    fitted_with = found["fit"]["environment"]
    for environment in (found["environment"], fitted_with):
        assert versions | {"pillow", "threads"} <= environment.keys()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["weights_sha256"] == saved["backbone"]["hash"]
    assert found["weights_file_sha256"] == saved["backbone"]["file_sha256"] != ""
    assert [entry["dataset"] for entry in found["images"]] == ["digits", "digits_8_9"]
    assert len({entry["sha256"] for entry in found["images"]}) == 2
    assert found["fit"]["images"] == saved["callbacks"]["ScoringCallback"]["images"]
