"""Trials on what a user gives: mutated configs, odd arguments of the trainer, variables of the environment, images."""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from experiments.faults.bench import EXECUTED, Bench, Trial

CALL = {"class_path": "os.system", "init_args": {"command": f"touch {EXECUTED}"}}
VALUES: list[Any] = [
    *(None, 0, -1, 3.7, 1e30, float("nan"), float("inf"), "", "text", "x" * 5000, [], {}, True, [1, "a"], {"a": 1}),
    *("../../..", "/etc/passwd", "/dev/null", "=1+1", "${HOME}", "<b>$x_{1}</b>", "\u202ename", "a\x00b", "é" * 40),
    *(CALL, {"class_path": "builtins.eval", "init_args": {"source": "1"}}, {"class_path": "no.such.Class"}),
    *({"class_path": "torch.nn.Identity"}, {"class_path": "tests.helpers.tiny.Images", "init_args": {"size": -3}}),
]
TAGS = (
    f"!!python/object/apply:os.system ['touch {EXECUTED}']",
    f"!!python/object/new:os.system ['touch {EXECUTED}']",
    "!!python/name:os.system",
    f"!!python/object/apply:subprocess.Popen [['touch', '{EXECUTED}']]",
    "!!binary ====",
    "!!timestamp 99",
    "&a [*a]",
    "{{: 3}",
    "'unfinished",
    "\t- tab",
)
COMMANDS = ("test", "fit", "check")


def configs(count: int) -> Iterator[Trial]:
    """Yields trials that change a config at one to three places."""
    for number in range(count):
        command = COMMANDS[number % 3]
        play = _tag if number % 6 == 5 else _mutated
        yield Trial("a mutated config", command, partial(play, command=command))


def _mutated(bench: Bench, draw: random.Random, command: str) -> str:
    content = yaml.safe_load((bench.folder / "plain.yaml").read_text())
    for _ in range(draw.choice((1, 1, 2, 3))):
        mutate(content, draw)
    (bench.folder / "plain.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return _run_anew(bench, command, "--config", "plain.yaml")


def mutate(content: dict[str, Any], draw: random.Random) -> None:
    """Changes, deletes or adds one value of nested dicts and lists in place."""
    parent: Any = content
    while True:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = draw.choice(keys)
        below = parent[key]
        if not isinstance(below, dict | list) or not below or draw.random() < 0.15:
            break
        parent = below
    how = draw.random()
    if how < 0.2:
        del parent[key]
    elif how < 0.3 and isinstance(parent, dict):
        parent[f"{key}_"] = parent[key]
    else:
        parent[key] = copy.deepcopy(draw.choice(VALUES))


def _tag(bench: Bench, draw: random.Random, command: str) -> str:
    lines = (bench.folder / "plain.yaml").read_text().splitlines()
    at = draw.choice([i for i, line in enumerate(lines) if ": " in line])
    lines[at] = f"{lines[at].partition(': ')[0]}: {draw.choice(TAGS)}"
    (bench.folder / "plain.yaml").write_text("\n".join(lines))
    return _run_anew(bench, command, "--config", "plain.yaml")


def _run_anew(bench: Bench, command: str, *arguments: object, **environment: str) -> str:
    """Runs a command; a finished fit is right where the test after it has a whole table."""
    if command == "fit":
        arguments = (*arguments, "--overwrite")
    done = bench.run(command, *arguments, **environment)

    def right() -> bool:
        if command == "check":
            return True
        after = bench.run("test", *(a for a in arguments if a != "--overwrite"), **environment)
        return after.code == 2 or bench.whole() or any(bench.folder.glob("runs/*/metrics.csv"))

    return bench.judge(done, right)


def _callback(name: str, **arguments: object) -> list[dict[str, object]]:
    return [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}]


TRAINER: list[dict[str, Any]] = [
    *({"accelerator": value} for value in ("gpu", "cuda", "tpu", "mps", "hpu", "xyz", "")),
    *({"devices": value} for value in (0, -1, "x", "0", [0, 0], [], 1.5, "auto")),
    *({"num_nodes": value} for value in (0, -1, "x")),
    *({"strategy": value} for value in ("ddp_spawn", "ddp_fork", "fsdp", "deepspeed", "xla", "nonsense")),
    *({"precision": value} for value in ("bf16-true", "16-true", "64-true", "transformer-engine", "7", "bf16-mixed")),
    *({"max_epochs": value} for value in (0, -1, "x")),
    *({"max_steps": value} for value in (0, -2, "x")),
    *({"max_time": value} for value in ("00:00:00:00", "x", {"seconds": 0})),
    *({"limit_train_batches": value} for value in (0, -1, 2.0)),
    *({"limit_val_batches": 2}, {"limit_test_batches": 0.5}, {"fast_dev_run": True}, {"overfit_batches": 1}),
    *({"callbacks": _callback(name)} for name in ("RichProgressBar", "TQDMProgressBar", "ModelCheckpoint")),
    *({"callbacks": _callback(name)} for name in ("LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary")),
    *({"callbacks": _callback(name)} for name in ("StochasticWeightAveraging", "NoSuchCallback", "GPUStatsMonitor")),
    {"callbacks": _callback("EarlyStopping", monitor="nothing")},
    {"callbacks": _callback("ModelCheckpoint", monitor="nothing"), "enable_checkpointing": True},
    {"callbacks": _callback("ModelCheckpoint", dirpath="/proc/nowhere"), "enable_checkpointing": True},
    *({"val_check_interval": value} for value in (0, 5000, 1.7, "x")),
    *({"check_val_every_n_epoch": 0}, {"accumulate_grad_batches": 0}, {"gradient_clip_val": -1}),
    *({"gradient_clip_algorithm": "x"}, {"log_every_n_steps": -1}, {"num_sanity_val_steps": -5}),
    *({"deterministic": "x"}, {"benchmark": "x"}, {"inference_mode": False}, {"use_distributed_sampler": True}),
    *({"profiler": "x"}, {"profiler": "simple"}, {"detect_anomaly": True}, {"barebones": True}, {"plugins": "x"}),
    *({"sync_batchnorm": True}, {"reload_dataloaders_every_n_epochs": -1}, {"default_root_dir": "/proc/x"}),
    *({"logger": value} for value in ("x", [], {"class_path": "CSVLogger"}, {"class_path": "os.system"})),
]


def arguments(count: int) -> Iterator[Trial]:
    """Yields trials with an odd argument of the trainer, or an odd seed."""
    for number in range(count):
        given = [*TRAINER, *({"seed_everything": value} for value in (-1, 2**32, "x", True))]
        value, command = given[number % len(given)], ("fit", "check", "test")[number // len(given) % 3]
        yield Trial("an odd argument of the trainer", f"{command}: {value}", partial(_argument, value, command))


def _argument(value: dict[str, Any], command: str, bench: Bench, draw: random.Random) -> str:
    path = bench.folder / "trained.yaml"
    content = yaml.safe_load(path.read_text())
    if "seed_everything" in value:
        content |= value
    else:
        content["trainer"] |= value
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    arguments = ["--config", "trained.yaml", *(["--overwrite"] if command == "fit" else [])]
    return bench.judge(bench.run(command, *arguments), lambda: bench.whole("trained"))


VARIABLES: list[dict[str, str]] = [
    *({name: "x"} for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "WORLD_SIZE", "MASTER_PORT")),
    *({name: "1"} for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "WORLD_SIZE", "NODE_RANK")),
    {"SLURM_NTASKS": "2"},
    {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
    {"SLURM_NTASKS": "x", "SLURM_STEP_ID": "0"},
    *({"TORCHELASTIC_RUN_ID": "x"}, {"MASTER_ADDR": "no.such.host"}, {"PL_GLOBAL_SEED": "x"}),
    *({"PL_SEED_WORKERS": "x"}, {"OMP_NUM_THREADS": "x"}, {"OMP_NUM_THREADS": "0"}, {"CUDA_VISIBLE_DEVICES": "x"}),
    *({"TMPDIR": "/no/such/folder"}, {"HOME": "/no/such/home"}, {"HOME": ""}, {"LANG": "C", "LC_ALL": "C"}),
    *({"LC_ALL": "xx_YY"}, {"LIGHTNING_OOD_DATA": "/no/such"}, {"LIGHTNING_OOD_DATA": "a\nb"}, {"TZ": "x/y"}),
    *({"MPLBACKEND": "x"}, {"MPLCONFIGDIR": "/proc/x"}, {"COLUMNS": "1"}, {"COLUMNS": "x"}, {"TERM": "dumb"}),
    *({"TERM": ""}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"PATH": ""}, {"PYTHONWARNINGS": "error::UserWarning"}),
    *({"WANDB_MODE": "x"}, {"WANDB_DIR": "/proc/x"}, {"WANDB_PROJECT": "a/b"}, {"GIT_DIR": "/no/such"}),
    *({"LIGHTNING_OOD_PARENT": "x"}, {"LIGHTNING_OOD_PARENT": "1"}, {"HF_HUB_OFFLINE": "x"}, {"XDG_CACHE_HOME": "x"}),
]


def environment(count: int) -> Iterator[Trial]:
    """Yields trials with an odd variable in the environment: a finished test has the undisturbed table."""
    for number in range(count):
        values = VARIABLES[number % len(VARIABLES)]
        command = ("test", "fit_test")[number // len(VARIABLES) % 2]
        yield Trial("an odd environment", f"{command}: {values}", partial(_variables, values, command))


def _variables(values: dict[str, str], command: str, bench: Bench, draw: random.Random) -> str:
    shutil.rmtree(bench.folder / "runs" / "plain" / "report")
    done = bench.run(command, "--config", "plain.yaml", **values)
    return bench.judge(done, bench.same)


def pictures(count: int) -> Iterator[Trial]:
    """Yields trials with odd files among the images of an OOD set."""
    for number in range(count):
        name = list(FILES)[number % len(FILES)]
        skip = number // len(FILES) % 2
        yield Trial("odd images", f"{name}{', skipped' * skip}", partial(_images, name=name, skip=skip))


def _png(path: Path, size: tuple[int, int] = (12, 12), mode: str = "RGB", **options: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def _bomb(path: Path) -> None:
    content = bytearray(_png(path).read_bytes())
    content[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    path.write_bytes(content)


def _half(path: Path) -> None:
    path.write_bytes(_png(path).read_bytes()[:200])


def _flipped(path: Path) -> None:
    content = bytearray(_png(path).read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


FILES: dict[str, Callable[[Path], object]] = {
    "an empty file": lambda path: path.write_bytes(b""),
    "half a file": _half,
    "a flipped bit": _flipped,
    "text": lambda path: path.write_text("no image"),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
    "a bomb": _bomb,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a fifo": lambda path: os.mkfifo(path),
    "one pixel": lambda path: _png(path, (1, 1)),
    "a line": lambda path: _png(path, (1, 30000)),
    "a large image": lambda path: _png(path, (6000, 4000)),
    "a palette": lambda path: _png(path, mode="P", transparency=3),
    "one bit": lambda path: _png(path, mode="1"),
    "sixteen bits": lambda path: Image.fromarray(np.full((12, 12), 4000, np.uint16)).save(path),
    "floats": lambda path: _png(path.with_suffix(".tif"), mode="F"),
    "CMYK": lambda path: _png(path.with_suffix(".tif"), mode="CMYK"),
    "an animation": lambda path: _png(
        path.with_suffix(".gif"), save_all=True, append_images=[Image.new("RGB", (9, 9))]
    ),
    "a name that is no UTF-8": lambda path: _png(path.with_name(os.fsdecode(b"caf\xe9.png"))),
    "a line break in the name": lambda path: _png(path.with_name("a\nb.png")),
    "markup in the name": lambda path: _png(path.with_name("<img src=x onerror=alert(1)>$_{.png")),
    "a formula for a name": lambda path: _png(path.with_name("=cmd|' '!A1.png")),
    "a long name": lambda path: _png(path.with_name("n" * 250 + ".png")),
    "an upper-case suffix": lambda path: _png(path).rename(path.with_suffix(".PNG")),
    "another suffix": lambda path: _png(path).rename(path.with_suffix(".jpg")),
}


def _images(bench: Bench, draw: random.Random, name: str, skip: int) -> str:
    folder = Path(shutil.copytree(bench.base / "data" / "far", bench.folder / "odd"))
    FILES[name](folder / "odd.png")
    more = ("--data.bad_images", "skip") if skip else ()
    done = bench.run("test", "--config", "plain.yaml", "--data.ood.far/files", folder, *more)
    return bench.judge(done, bench.whole)
