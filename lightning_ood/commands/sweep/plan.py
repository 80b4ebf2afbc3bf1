"""From points to runs: points that differ in detectors alone share one run, so that each image is forwarded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_ood.commands.sweep.point import Resolver, argument
from lightning_ood.commands.sweep.space import Point, Sweep
from lightning_ood.errors import InputError

APART = ("logger", "enable_progress_bar", "default_root_dir")  # of the trainer: they change no number


@dataclass(frozen=True)
class Planned:
    """A point and what it asks for.

    Attributes:
        point: its parameters.
        key: a hash of every argument that the point resolves to, defaults included.
        run: a hash of all of them but the detectors: points that share it share one run.
        config: the resolved arguments without the detectors.
        detectors: name in the run -> class path and arguments. Two points that ask for the same detector share it.
        names: name in the run -> name in the config.
    """

    point: Point
    key: str
    run: str
    config: Mapping[str, Any]
    detectors: Mapping[str, Any]
    names: Mapping[str, str]


def plan(sweep: Sweep, points: Iterable[Point], resolver: Resolver) -> tuple[list[Planned], list[tuple[Point, str]]]:
    """Resolves points as the command line would.

    Returns:
        what can be run, and the points that the parser refuses with what it says.
    """
    planned, refused = [], []
    for point in points:
        try:
            planned.append(resolve(sweep, point, resolver))
        except InputError as error:
            refused.append((point, str(error)))
    return planned, refused


def resolve(sweep: Sweep, point: Point, resolver: Resolver) -> Planned:
    """One point.

    Raises:
        InputError: if the parser refuses it.
    """
    config = resolver.resolve([*sweep.arguments, *(argument(name, value) for name, value in point.items())])
    given = {name: spec for name, spec in config.pop("scoring")["detectors"].items() if spec is not None}
    for name in APART:
        config["trainer"].pop(name, None)
    names = {f"{name}-{_hash(spec)[:8]}": name for name, spec in given.items()}
    detectors = dict(zip(names, given.values(), strict=True))
    return Planned(point, _hash([config, given]), _hash(config), config, detectors, names)


def together(planned: Iterable[Planned]) -> list[list[Planned]]:
    """The points of each run."""
    runs: dict[str, list[Planned]] = {}
    for each in planned:
        runs.setdefault(each.run, []).append(each)
    return list(runs.values())


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
