"""Reads sweep files in W&B's format: https://docs.wandb.ai/models/sweeps/define-sweep-configuration."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lightning_ood.errors import InputError
from lightning_ood.ops.files import read_text
from lightning_ood.ops.plain_yaml import read_yaml

Point = dict[str, Any]  # parameter -> value

KEYS = ("program", "command", "method", "metric", "parameters")
# Keys that W&B alone reads, and run_cap. Nothing is terminated early: a point is one pass.
WANDB_KEYS = ("name", "description", "project", "entity", "run_cap", "early_terminate")
METHODS = ("grid", "random", "bayes")
RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
JOB = "fit_test"


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file."""

    path: Path
    arguments: list[str]  # arguments of fit_test that all points share
    method: str  # one of METHODS
    metric: str | None  # a key of the run's summary, such as auroc/mean-far/nap; None where nothing is optimised
    maximise: bool  # True if a larger metric is better
    space: dict[str, BaseDistribution]  # parameter -> its values
    cap: int | None  # run_cap, the largest number of points

    def grid(self) -> list[Point]:
        """Returns every combination of values, the last parameter varying fastest.

        Raises:
            InputError: if a parameter has infinitely many values.
        """
        values = {name: grid_values(distribution) for name, distribution in self.space.items()}
        for name, each in values.items():
            how = "`values`, integer `min` and `max`, or q_uniform; or write method: random"
            _check(each, f"{self.path}: parameters.{name}: a grid needs {how}")
        return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def grid_values(distribution: Any) -> list[Any]:
    """Returns all values of a distribution; none for a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if distribution.step is None:
        return []
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [round(distribution.low + i * distribution.step, 12) for i in range(count)]


def read(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        InputError: if it is not a sweep file of this command line; the message names the key.
    """
    try:
        content = read_yaml(read_text(path), path)
    except OSError as error:
        raise InputError(f"{path}: no such sweep file") from error
    _check(isinstance(content, Mapping), f"{path}: a sweep file has the keys {', '.join(sorted(KEYS))}")
    allowed = sorted((*KEYS, *WANDB_KEYS))
    for key in content:
        near = get_close_matches(str(key), allowed, n=1) or allowed
        _check(key in allowed, f"{path}: unknown key {key!r}; write one of {', '.join(near)}")
    method, parameters, metric = content.get("method"), content.get("parameters"), content.get("metric") or {}
    _check(method in METHODS, f"{path}: method is {method!r}; write grid, random or bayes")
    _check(
        parameters and isinstance(parameters, Mapping),
        f"{path}: no parameters; write one, as `parameters: {{model.training.label_smoothing: {{values: …}}}}`",
    )
    _check(
        method != "bayes" or metric.get("name"),
        f"{path}: method: bayes needs a metric; write `metric: {{name: auroc/mean-far/nap, goal: maximize}}`",
    )
    return Sweep(
        path,
        _arguments(path, [str(word) for word in content.get("command") or []]),
        method,
        metric.get("name"),
        metric.get("goal", "minimize") == "maximize",
        {name: _distribution(f"{path}: parameters.{name}", spec) for name, spec in parameters.items()},
        content.get("run_cap"),
    )


def _arguments(path: Path, command: list[str]) -> list[str]:
    """Returns the arguments between ``fit_test`` and ``${args}``."""
    how = '`command: ["${env}", "${interpreter}", "${program}", fit_test, --config, FILE, "${args}"]`'
    complete = JOB in command and command[-1] == "${args}"
    _check(complete, f"{path}: the command must fit and test a point; write {how}")
    given = command[command.index(JOB) + 1 : -1]
    macros = [word for word in given if word.startswith("${")]
    _check(
        not macros, f"{path}: {', '.join(macros)} between {JOB} and ${{args}}, where only arguments may be; write {how}"
    )
    return given


def _distribution(where: str, spec: Any) -> BaseDistribution:
    how = f"write `{{values: [{spec}, …]}}`, `{{value: {spec}}}` or `{{min: …, max: …}}`"
    _check(isinstance(spec, Mapping), f"{where}: {spec!r} is no set of values; {how}")
    _check(
        "parameters" not in spec,
        f"{where}: nested parameters; write them with dots, as `model.training.label_smoothing`",
    )
    _check("probabilities" not in spec, f"{where}: only W&B reads probabilities; leave them out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that are mappings, and steps that do not end at the maximum
        if "value" in spec:
            return CategoricalDistribution([spec["value"]])
        if "values" in spec:
            values = spec["values"]
            _check(values and isinstance(values, list), f"{where}: values is {values!r}; write a list of at least one")
            return CategoricalDistribution(values)
        _check("min" in spec and "max" in spec, f"{where}: no values; write `values`, `value`, or `min` and `max`")
        return _range(where, spec)


def _range(where: str, spec: Mapping[str, Any]) -> BaseDistribution:
    low, high = spec["min"], spec["max"]
    integers = isinstance(low, int) and isinstance(high, int)
    kind = spec.get("distribution", "int_uniform" if integers else "uniform")
    _check(kind in RANGES, f"{where}: only W&B reads the distribution {kind!r}; write one of {', '.join(RANGES)}")
    try:
        if not low < high:
            raise ValueError("min is not below max")
        if kind == "int_uniform":
            return IntDistribution(int(low), int(high))
        step = float(spec.get("q", 1)) if kind == "q_uniform" else None
        return FloatDistribution(low, high, log=kind == "log_uniform_values", step=step)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: min {low!r}, max {high!r}: {error}") from error


def _check(holds: Any, message: str) -> None:
    if not holds:
        raise InputError(message)
