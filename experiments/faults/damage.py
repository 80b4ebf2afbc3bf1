"""Trials on the files of a run: bits, truncations, hostile pickles, checkpoints and tables of another structure."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.faults.bench import EXECUTED, Bench, Trial
from lightning_ood.engine.run_dir import CHECKSUMS, with_checksums

PLAIN, TRAINED = ("--config", "plain.yaml"), ("--config", "trained.yaml")
CACHED = (*PLAIN, "--model.reading.cache", "cache")
# file or pattern of files -> run, and the command that reads it
READ: dict[str, tuple[str, tuple[str, ...]]] = {
    "runs/plain/checkpoints/last.ckpt": ("plain", ("test", *PLAIN)),
    "runs/trained/checkpoints/last.ckpt": ("trained", ("test", *TRAINED)),
    "runs/trained/checkpoints/trained.ckpt": ("trained", ("fit", *TRAINED)),
    "runs/plain/scores.parquet": ("plain", ("report", "runs/plain")),
    "runs/trained/scores.parquet": ("compare", ("compare", "runs/plain", "runs/trained")),
    "runs/plain/report/fits.json": ("plain", ("report", "runs/plain")),
    "runs/plain/doubts.csv": ("plain", ("report", "runs/plain")),
    "runs/plain/config.test.yaml": ("plain", ("report", "runs/plain")),
    "runs/plain/config.yaml": ("config", ("test", "--config", "runs/plain/config.yaml")),
    "runs/plain/metrics.csv": ("plain", ("test", *PLAIN)),
    "cache/**/*.safetensors": ("plain", ("test", *CACHED)),
    "exported/*": ("predict", ("predict", "--detector", "exported", "--trust_code", "{base}/data/far")),
}


def bits(count: int) -> Iterator[Trial]:
    """Yields trials that flip one bit of a file, then read it."""
    yield from _each("a flipped bit", count, _flip)


def truncations(count: int) -> Iterator[Trial]:
    """Yields trials that cut a file off, to nothing in every third."""
    yield from _each("a truncated file", count, _cut)


def _each(kind: str, count: int, damage: Callable[[bytes, random.Random], bytes]) -> Iterator[Trial]:
    for number in range(count):
        pattern = list(READ)[number % len(READ)]
        yield Trial(kind, f"{pattern}", partial(_damaged, pattern=pattern, damage=damage))


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed, place = bytearray(content), draw.randrange(len(content))
    changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.choice((0, draw.randrange(len(content)), draw.randrange(len(content))))]


def _damaged(bench: Bench, draw: random.Random, pattern: str, damage: Callable[[bytes, random.Random], bytes]) -> str:
    path = draw.choice(sorted(path for path in bench.folder.glob(pattern) if path.is_file()))
    content = path.read_bytes() or b"\0"
    path.write_bytes(damage(content, draw))
    return _read(bench, pattern)


def _read(bench: Bench, pattern: str) -> str:
    """Runs the command that reads a file; a finished one is right where it gave what the undisturbed run gave."""
    how, words = READ[pattern]
    arguments = [word.format(base=bench.base) for word in words]
    expected = said(bench.base, arguments) if how in ("compare", "predict") else ""
    done = bench.run(*arguments)

    def right() -> bool:
        if expected:
            return done.said == expected
        if how == "config":
            return bench.whole()
        return (arguments[0] == "fit" and bench.recover(how) == "right") or bench.same(how)

    return bench.judge(done, right)


def said(base: Path, arguments: list[str]) -> str:
    """Returns what a command says about the undisturbed runs."""
    return (base / f"{arguments[0]}.txt").read_text()


class Payload:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payloads(mark: Path) -> list[Any]:
    """Objects that would make the file ``mark`` when they are unpickled without care."""
    code = f"open({str(mark)!r}, 'w')"
    return [
        Payload(os.system, f"touch {mark}"),
        Payload(eval, code),
        Payload(exec, code),
        Payload(subprocess.Popen, ["touch", str(mark)]),
        Payload(subprocess.check_output, ["touch", str(mark)]),
        Payload(Path.touch, mark),
        Payload(io.open, str(mark), "w"),
        Payload(shutil.copy, "/bin/true", str(mark)),
        Payload(np.save, str(mark), np.zeros(1)),
        Payload(torch.save, 1, str(mark)),
        {"state_dict": {"fc.weight": Payload(eval, code)}},
        {"callbacks": Payload(exec, code), CHECKSUMS: {}},
        {"backbone": {"hash": Payload(os.system, f"touch {mark}")}},
        [Payload(map, Payload(eval, code), [1])],
        Payload(__import__, "os"),
    ]


def hostile(count: int) -> Iterator[Trial]:
    """Yields trials with a hostile pickle in place of a file that tensors are read from."""
    places = [
        "runs/plain/checkpoints/last.ckpt",
        "runs/trained/checkpoints/trained.ckpt",
        "weights",
        "exported",
        "cache",
    ]
    for number in range(count):
        place, form = places[number % len(places)], ("zip", "legacy", "pickle")[number // len(places) % 3]
        yield Trial("a hostile pickle", f"{place}, {form}", partial(_hostile, place=place, form=form, number=number))


def _hostile(bench: Bench, draw: random.Random, place: str, form: str, number: int) -> str:
    every = payloads(bench.folder / EXECUTED)
    bad = every[number % len(every)]
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(bad, buffer)
    else:
        torch.save(bad, buffer, _use_new_zipfile_serialization=form == "zip")
    (bench.folder / EXECUTED).unlink(missing_ok=True)
    if place == "weights":
        (bench.folder / "hostile.pth").write_bytes(buffer.getvalue())
        done = bench.run("test", *PLAIN, "--model.weights", bench.folder / "hostile.pth")
        return bench.judge(done, lambda: False)
    pattern = {"exported": "exported/*", "cache": "cache/**/*.safetensors"}.get(place, place)
    found = sorted(path for path in bench.folder.glob(pattern) if path.is_file())
    for path in found if place == "cache" else [draw.choice(found)]:
        path.write_bytes(buffer.getvalue())
    return _read(bench, pattern)


ODD: list[Any] = [None, 0, -1, 1e300, "text", [], {}, [1, [2]], {"a": {}}, True, b"bytes", torch.zeros(0)]


def structures(count: int) -> Iterator[Trial]:
    """Yields trials that replace a part of a checkpoint by another value and renew its checksums."""
    for number in range(count):
        name = ("plain", "trained")[number % 2]
        yield Trial("a checkpoint of another structure", name, partial(_structure, name=name))


def _structure(bench: Bench, draw: random.Random, name: str) -> str:
    path = bench.folder / "runs" / name / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content.pop(CHECKSUMS)
    parent, depth = content, draw.randrange(3)
    key = draw.choice(sorted(parent))
    while depth and isinstance(parent[key], dict) and parent[key]:
        parent, depth = parent[key], depth - 1
        key = draw.choice(sorted(parent))
    if draw.random() < 0.3:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(draw.choice(ODD))
    torch.save(with_checksums(content), path)
    return bench.judge(bench.run("test", "--config", f"{name}.yaml"), lambda: bench.same(name))


def tables(count: int) -> Iterator[Trial]:
    """Yields trials that change a table of scores, then report it or compare it."""
    changes = list(CHANGES)
    for number in range(count):
        name = changes[number % len(changes)]
        command = ("report", "compare")[number // len(changes) % 2]
        yield Trial("a changed table of scores", f"{name}, {command}", partial(_table, name=name, command=command))


def _cell(table: pd.DataFrame, draw: random.Random) -> pd.DataFrame:
    column = draw.choice(list(table))
    values = table[column].astype(object).tolist()
    values[draw.randrange(len(values))] = draw.choice([None, "text", -1, 1e300, float("nan"), True])
    kinds = {type(value) for value in values if value is not None}
    return table.assign(**{column: values if len(kinds) < 2 else list(map(str, values))})


CHANGES: dict[str, Callable[[pd.DataFrame, random.Random], pd.DataFrame]] = {
    "a cell": _cell,
    "a column less": lambda table, draw: table.drop(columns=draw.choice(list(table))),
    "no rows": lambda table, draw: table.iloc[:0],
    "no OOD rows": lambda table, draw: table[table["role"] == "id"],
    "no ID rows": lambda table, draw: table[table["role"] == "ood"],
    "one row of each role": lambda table, draw: table.groupby("role").head(1),
    "rows twice": lambda table, draw: pd.concat([table, table.head(3)]),
    "no detector": lambda table, draw: table.iloc[:, :7],
    "infinite scores": lambda table, draw: table.assign(msp=np.float32("inf")),
    "all scores NaN": lambda table, draw: table.assign(energy=np.float32("nan")),
    "text for scores": lambda table, draw: table.assign(msp="high"),
    "another role": lambda table, draw: table.assign(role="near"),
    "groups": lambda table, draw: table.assign(group=[str(i % 5) for i in range(len(table))]),
    "markup in names": lambda table, draw: table.assign(dataset="<script>x</script>$_{a}"),
    "a set called mean": lambda table, draw: table.assign(dataset="mean"),
    "negative index": lambda table, draw: table.assign(index=-table["index"]),
    "huge labels": lambda table, draw: table.assign(label=10**9, prediction=10**9),
    "paths that lead out": lambda table, draw: table.assign(path="../../../etc/passwd"),
    "a formula for a column": lambda table, draw: table.rename(columns={"msp": "=1+1"}),
    "float64 scores": lambda table, draw: table.assign(msp=table["msp"].astype("float64")),
}


def _table(bench: Bench, draw: random.Random, name: str, command: str) -> str:
    path = bench.folder / "runs" / "plain" / "scores.parquet"
    CHANGES[name](pd.read_parquet(path), draw).to_parquet(path, index=False)
    arguments = ["report", "runs/plain"] if command == "report" else ["compare", "runs/plain", "runs/trained"]
    done = bench.run(*arguments)
    return bench.judge(done, lambda: command == "compare" or bench.whole())
