"""One process, two or three: the same fit, the same score for every image, the same table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.cli.conftest import CORE, DETECTORS
from tests.conftest import Run

MORE = ("knn", "nnguide", "vim", "residual", "mds", "rmds", "fdbd")  # some hold one sketch together
BANKS = [part for name in MORE for part in (f"--scoring.detectors.{name}", DETECTORS / f"{name}.yaml")]
for bank in ("knn", "nnguide"):
    BANKS += [f"--scoring.detectors.{bank}.init_args.k", 5, f"--scoring.detectors.{bank}.init_args.bank_size", 30]


def outcome(train: Run, config: Path, folder: Path, processes: int) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    where = ("--trainer.default_root_dir", folder, "--trainer.devices", processes)
    strategy = ("--trainer.strategy", "ddp") if processes > 1 else ()
    for job in ("fit", "test"):
        done = train(job, "--config", config, *BANKS, *where, *strategy)
        assert done.returncode == 0, done.stderr
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    fitted = saved["callbacks"]["ScoringCallback"]["fitted"]
    return pd.read_parquet(folder / "scores.parquet"), pd.read_csv(folder / "metrics.csv"), fitted


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(config: Path, train: Run, tmp_path: Path) -> None:
    """61, 23 and 17 images do not divide by 2 or 3; of 2 images on 3 processes, one process gets none."""
    scores, metrics, fitted = outcome(train, config, tmp_path / "one", 1)
    for processes in (2, 3):
        scores_n, metrics_n, fitted_n = outcome(train, config, tmp_path / str(processes), processes)
        keys = ["dataset", "index"]
        pd.testing.assert_frame_equal(scores_n[[*keys, "label", "prediction"]], scores[[*keys, "label", "prediction"]])
        for name in (*CORE, *MORE):
            tolerance = 1e-6 * scores[name].abs() + 1e-6 * (scores[name].max() - scores[name].min())
            assert ((scores_n[name] - scores[name]).abs() <= tolerance).all(), (name, processes)
        pd.testing.assert_frame_equal(metrics_n, metrics, check_exact=False, rtol=1e-6)
        for name, tensors in fitted.items():
            for key, value in tensors.items():
                other = fitted_n[name][key]
                if key in ("residual", "whitening", "background"):  # a basis: only what it spans is determined
                    other, value = other @ other.T, value @ value.T
                if value.is_floating_point():
                    scale = max(1.0, float(value.abs().max()))
                    torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6 * scale, msg=f"{name}.{key}")
                else:
                    assert torch.equal(other, value), f"{name}.{key}"
