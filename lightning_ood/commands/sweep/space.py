"""The sweep file: W&B's own format, read for the engine here. https://docs.wandb.ai/models/sweeps/define-sweep-configuration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from lightning_ood.errors import InputError

Point = dict[str, Any]  # parameter -> value

KEYS = {"program", "command", "method", "metric", "parameters"}
OF_WANDB = {
    "name",
    "description",
    "project",
    "entity",
    "run_cap",
    "early_terminate",
}  # early_terminate: one pass has none
RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
JOB = "fit_test"


@dataclass
class Range:
    """Numbers between two ends.

    Attributes:
        low: the smallest.
        high: the largest.
        kind: one of ``RANGES``.
        step: of ``q_uniform``.
    """

    low: float
    high: float
    kind: str
    step: float | None = None

    def grid(self) -> list[Any] | None:
        """Its values where they can be counted."""
        if self.kind == "int_uniform":
            return list(range(int(self.low), int(self.high) + 1))
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9)
            return [round(self.low + i * self.step, 12) for i in range(count + 1)]
        return None


@dataclass
class Sweep:
    """What a sweep file says.

    Attributes:
        path: the file.
        arguments: of ``fit_test``, those that all points share.
        method: how points are chosen.
        metric: a key of the run's summary, ``auroc/mean-far/nap``; None where nothing is optimised.
        maximise: whether more of it is better.
        space: parameter -> its values, or a range of numbers.
        cap: points at most, None where the file does not say.
    """

    path: Path
    arguments: list[str]
    method: Literal["grid", "random", "bayes"]
    metric: str | None
    maximise: bool
    space: dict[str, list[Any] | Range]
    cap: int | None

    def grid(self) -> list[Point]:
        """Every combination.

        Raises:
            InputError: if a parameter has no values that can be counted.
        """
        values = {name: v.grid() if isinstance(v, Range) else v for name, v in self.space.items()}
        for name, each in values.items():
            if each is None:
                raise InputError(
                    f"{self.path}: parameters.{name}: a grid needs `values`, whole numbers between `min` and `max`, or "
                    "q_uniform; or write method: random"
                )
        return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]  # type: ignore[arg-type]


def read(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        InputError: if it is no sweep of this command line; names the key.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: no such sweep file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a sweep file has the keys {', '.join(sorted(KEYS))}")
    for key in content:
        if key not in KEYS | OF_WANDB:
            near = get_close_matches(str(key), KEYS | OF_WANDB, n=1) or sorted(KEYS | OF_WANDB)
            raise InputError(f"{path}: unknown key {key!r}; write one of {', '.join(near)}")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"{path}: method is {method!r}; write grid, random or bayes")
    parameters = content.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError(
            f"{path}: name at least one parameter, as `parameters: {{model.label_smoothing: {{values: …}}}}`"
        )
    metric = content.get("metric") or {}
    if method == "bayes" and not metric.get("name"):
        raise InputError(
            f"{path}: method: bayes needs a metric, as `metric: {{name: auroc/mean-far/nap, goal: maximize}}`"
        )
    return Sweep(
        path,
        _arguments(path, content.get("command")),
        method,
        metric.get("name"),
        metric.get("goal", "minimize") == "maximize",
        {name: _values(f"{path}: parameters.{name}", spec) for name, spec in parameters.items()},
        content.get("run_cap"),
    )


def _arguments(path: Path, command: Any) -> list[str]:
    """What stands between the program and the point's own arguments."""
    words = [str(word) for word in command or []]
    how = '`command: ["${env}", "${interpreter}", "${program}", fit_test, --config, FILE, "${args}"]`'
    if JOB not in words or not words or words[-1] != "${args}":
        raise InputError(f"{path}: a point is one command that fits and tests; write {how}")
    given = words[words.index(JOB) + 1 : -1]
    if any(word.startswith("${") for word in given):
        raise InputError(f"{path}: between {JOB} and ${{args}} stand arguments alone; write {how}")
    return given


def _values(where: str, spec: Any) -> list[Any] | Range:
    """The values of a parameter, or the range that they are drawn from."""
    if not isinstance(spec, Mapping):
        raise InputError(f"{where}: write `{{values: [{spec}, …]}}`, `{{value: {spec}}}` or `{{min: …, max: …}}`")
    if "parameters" in spec:
        raise InputError(f"{where}: write nested parameters with dots, as `model.label_smoothing`")
    if "value" in spec:
        return [spec["value"]]
    if "values" in spec:
        if "probabilities" in spec:
            raise InputError(f"{where}: probabilities are known to W&B alone; leave them out")
        if not spec["values"]:
            raise InputError(f"{where}: name at least one value")
        return list(spec["values"])
    if "min" not in spec or "max" not in spec:
        raise InputError(f"{where}: write `values`, `value`, or `min` and `max`")
    whole = all(isinstance(spec[end], int) for end in ("min", "max"))
    kind = spec.get("distribution", "int_uniform" if whole else "uniform")
    if kind not in RANGES:
        raise InputError(f"{where}: the distribution {kind!r} is known to W&B alone; write one of {', '.join(RANGES)}")
    if not spec["min"] < spec["max"]:
        raise InputError(f"{where}: min {spec['min']} is not below max {spec['max']}")
    step = float(spec.get("q", 1)) if kind == "q_uniform" else None
    return Range(spec["min"], spec["max"], kind, step)
