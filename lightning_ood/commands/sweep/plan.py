"""Groups points into runs: points that differ only in detectors share one run, so each image is forwarded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_ood.commands.sweep.point import Resolver, argument
from lightning_ood.commands.sweep.results import describe
from lightning_ood.commands.sweep.space import Point, Sweep
from lightning_ood.errors import InputError

NOT_HASHED = ("logger", "enable_progress_bar", "default_root_dir")  # arguments of the trainer that change no number


@dataclass(frozen=True)
class Planned:
    """A point with its resolved arguments."""

    point: Point
    key: str  # hash of all resolved arguments, defaults included
    run: str  # hash of all resolved arguments except the detectors; points with the same hash share one run
    config: Mapping[str, Any]  # the resolved arguments without the detectors
    detectors: Mapping[str, Any]  # name in the run -> class path and arguments; equal detectors have the same name
    names: Mapping[str, str]  # name in the run -> name in the config
    logger: Any = False  # as the config gives it; none where it gives none


def plan(sweep: Sweep, points: Iterable[Point], resolver: Resolver) -> tuple[list[Planned], list[str]]:
    """Resolves points as the command line does; returns the planned ones, and a line for each that is refused."""
    planned, refused = [], []
    for point in points:
        try:
            planned.append(resolve(sweep, point, resolver))
        except InputError as error:
            refused.append(f"{describe(point)}: {error}")
    return planned, refused


def resolve(sweep: Sweep, point: Point, resolver: Resolver) -> Planned:
    """Resolves one point.

    Raises:
        InputError: if the parser refuses it.
    """
    config = resolver.resolve([*sweep.arguments, *(argument(name, value) for name, value in point.items())])
    given = {name: spec for name, spec in config.pop("scoring")["detectors"].items() if spec is not None}
    logger = config["trainer"]["logger"] or False  # null: W&B for a run, none for a sweep
    for name in NOT_HASHED:
        config["trainer"].pop(name, None)
    names = {f"{name}-{_hash(spec)[:8]}": name for name, spec in given.items()}
    detectors = dict(zip(names, given.values(), strict=True))
    return Planned(point, _hash([config, given]), _hash(config), config, detectors, names, logger)


def together(planned: Iterable[Planned]) -> list[list[Planned]]:
    """Returns the points of each run."""
    runs: dict[str, list[Planned]] = {}
    for each in planned:
        runs.setdefault(each.run, []).append(each)
    return list(runs.values())


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
