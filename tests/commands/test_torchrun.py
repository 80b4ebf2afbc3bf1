"""The README's recipe for several nodes, taken literally: two torchrun nodes on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.runs import CORE, ROOT, Run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_give_what_one_process_gives(config: Path, train: Run, tmp_path: Path) -> None:
    for job in ("fit", "test"):
        assert train(job, "--config", config).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment.pop("LIGHTNING_OOD_DATA", None)
    for job in ("fit", "test"):
        port = free_port()
        nodes = []
        for node in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc_per_node", 1]
            command += [
                "--node_rank",
                node,
                "--master_addr",
                "127.0.0.1",
                "--master_port",
                port,
                ROOT / "train.py",
                job,
            ]
            command += ["--config", config, "--trainer.num_nodes", 2, "--trainer.devices", 1]
            command += ["--trainer.strategy", "ddp", "--trainer.default_root_dir", tmp_path / "nodes"]
            nodes.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        said = [node.communicate(timeout=200)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    one = pd.read_parquet(tmp_path / "runs" / "tiny" / "scores.parquet")
    two = pd.read_parquet(tmp_path / "nodes" / "scores.parquet")
    others = [name for name in one if name not in CORE]
    pd.testing.assert_frame_equal(two[others], one[others])
    for name in CORE:
        tolerance = 1e-6 * one[name].abs() + 1e-6 * (one[name].max() - one[name].min())
        assert ((two[name] - one[name]).abs() <= tolerance).all(), name
    metrics = [pd.read_csv(tmp_path / where / "metrics.csv") for where in ("nodes", "runs/tiny")]
    pd.testing.assert_frame_equal(*metrics, check_exact=False, rtol=1e-6)
