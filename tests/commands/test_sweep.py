"""Sweep files: points in one pass, what is finished is kept, what fails is listed; W&B's agents run the same file."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from torch import Tensor

from lightning_ood.commands.cli import main as command_line
from lightning_ood.commands.sweep import runs, space
from lightning_ood.commands.sweep.command import study_of
from lightning_ood.commands.sweep.plan import plan, resolve, together
from lightning_ood.commands.sweep.point import Resolver, argument, main
from lightning_ood.errors import InputError
from tests.helpers.runs import DETECTORS, ROOT, Run
from tests.helpers.tiny import Net

EPS = "scoring.detectors.nap.init_args.eps"
TAP = "scoring.detectors.nap.init_args.tap"
SHIFT = "data.ood.near/pale.init_args.shift"


def write_sweep(config: Path, parameters: dict[str, Any], **more: Any) -> Path:
    detectors = f"{{energy: {DETECTORS / 'energy.yaml'}, nap: {DETECTORS / 'nap.yaml'}}}"
    command = ["${env}", "${interpreter}", "${program}", "fit_test", "--config", str(config)]
    content = {
        "program": str(ROOT / "train.py"),
        "method": "grid",
        "command": [*command, f"--scoring.detectors={detectors}", "${args}"],
        "parameters": parameters,
        **more,
    }
    path = config.parent / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    counter: Counter[str] = Counter()
    forward = Net.forward

    def counting(self: Net, images: Tensor) -> Tensor:
        probe = images.abs().max() > 1.0001 or images.abs().max() == 0
        counter["probe" if probe else "image"] += len(images)
        return forward(self, images)

    monkeypatch.setattr(Net, "forward", counting)
    monkeypatch.chdir(tmp_path)
    return counter


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The command line in this process, which has imported everything; exit code and what it said."""
    try:
        command_line([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a sweep start no process, one at a time: the parser changes the working directory for a moment."""

    def start(args: list[str], log: Path, threads: int, variables: object = None) -> int:
        with log.open("w") as out, redirect_stdout(out), redirect_stderr(out):
            try:
                command_line(args)
            except SystemExit as stop:
                return int(stop.code or 0)
            return 0

    monkeypatch.setattr(runs, "start", start)
    monkeypatch.setattr(runs, "ThreadPoolExecutor", lambda jobs: ThreadPoolExecutor(1))


@pytest.mark.usefixtures("in_process")
def test_grid_resume_and_failure(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two eps, two taps of which one does not exist; then another eps, and another data set."""
    monkeypatch.chdir(tmp_path)
    path = write_sweep(config, {EPS: {"values": [0.1, 1.0]}, TAP: {"values": ["last", "nowhere"]}})
    code, said = call(capsys, "sweep", path)
    assert code == 1 and "4 points in 1 runs" in said and said.count("failed: ") == 2, said
    assert "'nowhere'" in said and "log-1.txt" in said
    folder = tmp_path / "runs" / "sweeps" / f"{tmp_path.name}-sweep"
    assert set(pd.read_csv(folder / "sweep.csv").query("detector == 'nap'")[TAP]) == {"last"}
    # Again: what is finished stays, though the file names a parameter more; the rest is two runs.
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("points/*.json")}
    assert len(finished) == 2
    write_sweep(config, {EPS: {"values": [0.1, 1.0, 3.0]}, SHIFT: {"values": [40, 60]}})
    code, said = call(capsys, "sweep", path, "--jobs", 2, "--results", tmp_path / "out")
    assert code == 0 and "4 points in 2 runs; 2 are finished" in said, said
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    table = pd.read_csv(tmp_path / "out" / "sweep.csv")
    nap = table.query("detector == 'nap'")
    assert len(nap) == 6 * (2 + 2), "two sets and the means of two groups"
    energy = table.query("detector == 'energy' and dataset == 'pale'")
    assert energy[EPS].tolist() == ["any", "any"], "what does not depend on a parameter is there once"
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert text.count("\n") == 2 + 8 and (tmp_path / "out" / "sweep.png").is_file()
    # The numbers are those of the one command that W&B's agents run.
    code, said = call(capsys, "fit_test", "--config", config, f"--{EPS}=0.1", f"--{SHIFT}=60")
    assert code == 0, said
    expected = pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv").query("detector == 'nap'")
    found = nap[(nap[EPS].astype(float) == 0.1) & (nap[SHIFT] == 60)]
    for column in ("auroc", "fpr95", "auroc_low"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=1e-9), column


def test_points_that_differ_in_detectors_forward_images_once(config: Path, seen: Counter[str]) -> None:
    """The run of a group, in this process: as many images enter the network as in one point."""
    sweep = space.read(
        write_sweep(config, {EPS: {"values": [0.1, 0.3, 1.0, 3.0]}, TAP: {"values": ["last", "block1"]}})
    )
    planned, refused = plan(sweep, sweep.grid(), Resolver())
    (group,) = together(planned)
    assert len(group) == 8 and not refused
    detectors = {name: spec for each in group for name, spec in each.detectors.items()}
    assert len(detectors) == 9, "energy is the same at every point"
    switched_off = {"scoring.detectors.nap": str(DETECTORS / "line.yaml")}
    line = resolve(sweep, {**switched_off, "scoring.detectors.nap.init_args.weight_percentile": None}, Resolver())
    (given,) = (spec["init_args"] for spec in line.detectors.values() if "LINe" in spec["class_path"])
    assert given["weight_percentile"] is None, "null is a value, not a default"
    file = config.parent / "points.yaml"
    file.write_text(yaml.safe_dump({**group[0].config, "scoring": {"detectors": detectors}}))
    main(["--config", str(file), "--trainer.logger=false"])
    assert seen["image"] == 23 + 17 + 2, "neither NAP nor Energy has anything to fit"


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_choice_goes_on(config: Path, method: str) -> None:
    spread = {
        "a": {"min": 0.01, "max": 100.0, "distribution": "log_uniform_values"},
        "b": {"min": 1, "max": 6},
        "c": {"values": [{"class_path": "X"}, None]},
    }
    more = {"method": method, "metric": {"name": "auroc/pale/nap", "goal": "maximize"}}
    sweep = space.read(write_sweep(config, spread, **more))
    study = study_of(sweep, [])
    trials = [study.ask(sweep.space) for _ in range(12)]
    first = [trial.params for trial in trials]
    values = [-abs(point["b"] - 4) - (point["c"] is None) for point in first]
    for trial, point, value in zip(trials, first, values, strict=True):
        assert 0.01 <= point["a"] <= 100 and point["b"] in range(1, 7) and point["c"] in ({"class_path": "X"}, None)
        study.tell(trial, value)
    again = study_of(sweep, list(zip(first, values, strict=True)))
    later = [again.ask(sweep.space) for _ in range(40)]
    assert all(trial.params not in first for trial in later)
    if method == "bayes":
        assert len(again.get_trials()) == 52, "the finished points are known"
        for trial in later:
            again.tell(trial, -abs(trial.params["b"] - 4) - (trial.params["c"] is None))
        last = [again.ask(sweep.space).params for _ in range(20)]
        assert sum(p["c"] is not None and p["b"] in (3, 4, 5) for p in last) >= 10


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_bayes_from_the_command_line(
    config: Path, train: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two points, then two more; the second call is a user's own."""
    parameters = {EPS: {"min": 0.01, "max": 10.0, "distribution": "log_uniform_values"}}
    metric = {"name": "auroc/mean-near/nap", "goal": "maximize"}
    path = write_sweep(config, parameters, method="bayes", metric=metric, run_cap=4)
    monkeypatch.chdir(tmp_path)
    code, said = call(capsys, "sweep", path, "--count", 2)
    assert code == 0 and "Best auroc/mean-near/nap: " in said, said
    swept = train("sweep", path, "--batch", 2)
    assert swept.returncode == 0 and "2 points in 1 runs" in swept.stdout, swept.stdout + swept.stderr
    (table,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
    assert pd.read_csv(table).query("detector == 'nap'")[EPS].nunique() == 4


def test_wandb_agent_runs_the_same_file(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own agent, handed a point as its server would, makes the command, and the command makes the run."""
    agents = pytest.importorskip("wandb.wandb_agent")
    path = write_sweep(config, {EPS: {"values": [0.1]}})
    monkeypatch.chdir(tmp_path)
    environment = {"WANDB_SWEEP_ID": "s1", "WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    for name, value in {**environment, "PYTHONPATH": str(ROOT), "WANDB_RUN_ID": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # its `python`
    agent = agents.Agent(api=None, queue=None, sweep_id="s1")
    content = yaml.safe_load(path.read_text())
    agent._sweep_command = content["command"]
    values = {EPS: 0.1, "scoring.detectors.energy": None, "trainer.logger": {"class_path": "CSVLogger"}}
    values["trainer.logger"] = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    args = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "p1", "program": content["program"], "args": args})
    assert agent._run_processes["p1"].wait(timeout=200) == 0
    folder = tmp_path / "runs" / "tiny" / "p1"
    assert set(pd.read_csv(folder / "metrics.csv")["detector"]) == {"nap"}
    assert (
        yaml.safe_load((folder / "config.test.yaml").read_text())["scoring"]["detectors"]["nap"]["init_args"]["eps"]
        == 0.1
    )
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    assert create_sweep_command_args({"args": args})["args"] == [argument(*item) for item in values.items()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "gird"}, "grid, random or bayes"),
        ({"parameter": {}}, "parameters"),
        ({"command": ["${program}", "fit", "${args}"]}, "fit_test"),
        ({"parameters": {EPS: 3}}, "{values: [3, …]}"),
        ({"parameters": {EPS: {"min": 0.1, "max": 1.0}}}, "method: random"),
        ({"parameters": {EPS: {"distribution": "normal", "min": 0, "max": 1}}}, "log_uniform_values"),
        ({"method": "bayes"}, "metric"),
    ],
)
def test_what_is_wrong_is_named(config: Path, change: dict[str, Any], said: str) -> None:
    path = write_sweep(config, {EPS: {"values": [1.0]}})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InputError, match=str(path)) as error:
        space.read(path).grid()
    assert said in str(error.value)


def test_sweep_files_here_are_parsed() -> None:
    """Each file of experiments/ is read, and its first and last point are parsed."""
    files = [p for p in (ROOT / "experiments").rglob("*.yaml") if "method:" in p.read_text()]
    resolver = Resolver()
    for path in files:
        sweep = space.read(path)
        study = study_of(sweep, [])
        points = sweep.grid() if sweep.method == "grid" else [study.ask(sweep.space).params for _ in range(2)]
        _, refused = plan(sweep, [points[0], points[-1]], resolver)
        assert not refused, f"{path}: {refused}"


@pytest.mark.parametrize(("high", "step", "last"), [(1.0, 0.1, 1.0), (1.0, 0.6, 0.6), (0.3, 0.1, 0.3)])
def test_steps_end_at_the_largest_value(config: Path, high: float, step: float, last: float) -> None:
    spec = {"min": 0.0, "max": high, "distribution": "q_uniform", "q": step}
    assert space.read(write_sweep(config, {EPS: spec})).grid()[-1][EPS] == last


def test_without_optuna_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "lightning_ood.commands.sweep.command")
    monkeypatch.delattr("lightning_ood.commands.sweep.command")
    with pytest.raises(SystemExit) as stop:
        command_line(["sweep", "my.yaml"])
    assert stop.value.code == 2 and "pip install 'lightning-ood[sweep]'" in capsys.readouterr().err
