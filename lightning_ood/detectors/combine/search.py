"""Hyper-parameters chosen from the features of one pass, on OOD stand-ins or on validation OOD images."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.detectors._contract import arguments, nest, unnest
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.pseudo_ood import Criterion, PseudoOOD, criterion
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, View


class Search(Detector):
    """A detector whose arguments are found: every combination of a grid is fitted and tried, the best one scores.

    All candidates are fitted in the same pass. Then each scores ``images`` ID training images and as many OOD
    stand-ins from features kept on the way (``FeatureSample``): no forward per candidate. OOD is stood for by views of
    the training images (one forward more per image and view), or by a validation OOD set, where ``pseudo_ood`` is empty
    and the run has one (``data.val_ood``). The criterion is averaged over the stand-ins; of equal candidates the first
    of the grid is taken.

    ID images that are scored are held out of the fit: a memory of training images (KNN with a small k) would look
    perfect on them. Where nothing is fitted, none are held out.

    State: that of the candidates, one for all that differ only in arguments that scoring alone reads (``score_only``
    and the arguments of a score of the logits), plus the samples. Fitted: ``chosen``, ``criterion`` [stand-ins,
    candidates], ``dead`` [parameters] and what the chosen candidate fitted, under ``of.``.

    Args:
        of: the detector; its own arguments hold for what the grid does not name. ReAct where None.
        grid: argument -> values. A dot reaches into an argument: ``base.temperature``, ``layers.pooled.alpha``.
            The percentile of ReAct where None.
        pseudo_ood: views that stand for OOD; a 3x3 jigsaw where None, a validation OOD set where empty.
        criterion: ``auroc``, or ``fpr95`` with ID positive.
        images: of each kind, at most.
        held_out: share of the training images that are scored and not fitted on.
        seed: draws other images.

    Raises:
        InputError: if the grid is empty or names an argument that the detector does not have.
    """

    def __init__(
        self,
        of: Detector | None = None,
        grid: dict[str, list[Any]] | None = None,
        pseudo_ood: list[View] | None = None,
        criterion: Criterion = "auroc",
        images: int = 1000,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        template = ReAct() if of is None else of
        self._template = (template,)  # a tuple: not registered, only the candidates are fitted
        if grid is None:
            grid = {"percentile": [80, 85, 90, 95, 99]} if of is None else {}
        if not grid or not all(grid.values()):
            raise InputError("Search needs a grid: at least one argument, each with at least one value")
        self.grid, self.criterion = {name: list(values) for name, values in grid.items()}, criterion
        self.choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        # Tuples are not registered: only one candidate of each group is summed, moved and merged.
        self.candidates = tuple(varied(template, choice) for choice in self.choices)
        fitted_alike = [path for path in grid if _score_only(template, path)]
        groups = [repr([(k, v) for k, v in choice.items() if k not in fitted_alike]) for choice in self.choices]
        self.leader = [groups.index(group) for group in groups]
        self.leaders = nn.ModuleList(self.candidates[i] for i in dict.fromkeys(self.leader))
        self.pseudo_ood = [Jigsaw()] if pseudo_ood is None else list(pseudo_ood)
        self.views = tuple(self.pseudo_ood)
        self.val_ood = not self.views
        self.positive = all(candidate.positive for candidate in self.candidates)
        self.images, self.held_out, self.seed = images, held_out, seed

    @property
    def of(self) -> Detector:
        """The detector whose arguments are searched."""
        return self._template[0]

    def setup(self, info: NetworkInfo) -> None:
        """Sets every candidate up and makes room for the samples."""
        info = info.sharing() if self.held_out else info
        super().setup(info)
        for i, candidate in enumerate(self.candidates):
            if self.leader[i] != i:
                candidate.setup(info)
        self.trial = PseudoOOD(self.candidates, self.views, info, self.images, self.held_out, self.seed)

    def update(self, features: Features) -> None:
        """Fits the candidates and keeps what they will be tried on."""
        fitted_on = self.trial.update(features)
        for candidate in self.leaders:
            if len(fitted_on):
                candidate.update(fitted_on)  # type: ignore[operator]

    def update_ood(self, features: Features) -> None:
        """Keeps validation OOD images, where no view stands for OOD."""
        self.trial.update_ood(features)

    def compute(self) -> dict[str, Tensor]:
        """``chosen``, ``criterion``, ``dead``, and the chosen one's fit under ``of.``.

        Raises:
            InputError: if a stand-in has no image, or a candidate gives a score that is not finite.
        """
        of = {i: c.compute() if c.requires_fit else {} for i, c in enumerate(self.candidates) if self.leader[i] == i}
        fitted = [of[i] for i in self.leader]
        known, unknown = self.trial.compute(fitted)
        for i, choice in enumerate(self.choices):
            if not all(scores[:, i].isfinite().all() for scores in (known, *unknown)):
                raise InputError(f"Search: {self._say(choice)} gives scores that are not finite; leave it out")
        rows = [[criterion(known[:, i], u[:, i], self.criterion) for i in range(len(self.choices))] for u in unknown]
        values = torch.stack([torch.stack(row) for row in rows])
        gain = values.mean(dim=0) if self.criterion == "auroc" else -values.mean(dim=0)
        chosen = int((gain >= gain.max() - 1e-9).nonzero()[0])
        dead = _dead(torch.cat([known, *unknown]), [len(v) for v in self.grid.values()])
        found = {"chosen": torch.tensor(chosen), "criterion": values, "dead": torch.tensor(dead)}
        return {**found, **nest("of", fitted[chosen])}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """The score of the chosen candidate, ``[B]``."""
        return self._chosen(fitted).score(features, unnest("of", fitted))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """As the chosen candidate gives it."""
        return self._chosen(fitted).log_score(features, unnest("of", fitted))

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """The chosen values, the criterion of every candidate, the arguments that change no score."""
        said: dict[str, float | str] = {}
        for name, value in self.choices[int(fitted["chosen"])].items():
            said[name] = value if isinstance(value, int | float | str) else str(value)
        values = fitted["criterion"]
        for name, row in zip(self.trial.names, (100 * values).tolist(), strict=True):
            grid = "; ".join(f"{self._say(c)}: {v:.2f}" for c, v in zip(self.choices, row, strict=True))
            said[f"{self.criterion} against {name}"] = grid
        dead = [name for name, is_dead in zip(self.grid, fitted["dead"].tolist(), strict=True) if is_dead]
        said |= {"dead": ", ".join(dead)} if dead else {}
        below = self._chosen(fitted).summary(unnest("of", fitted))
        return {**said, **{f"of.{key}": value for key, value in below.items()}}

    def _chosen(self, fitted: Fitted) -> Detector:
        return self.candidates[int(fitted["chosen"])]

    @staticmethod
    def _say(choice: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={value}" for name, value in choice.items())


def _dead(scores: Tensor, lengths: list[int]) -> list[bool]:
    """For each axis of a grid whether no score changes along it; ``scores`` ``[images, candidates]``."""
    cube = scores.reshape(-1, *lengths)
    tolerance = 1e-6 * scores.abs().amax()
    found = []
    for axis, length in enumerate(lengths, start=1):
        moves = cube.amax(dim=axis) - cube.amin(dim=axis)
        found.append(length > 1 and bool((moves <= tolerance).all()))
    return found


def varied(detector: Detector, changes: Mapping[str, Any]) -> Detector:
    """A new detector like another one, with some arguments changed.

    Args:
        detector: is left as it is.
        changes: argument -> value; dots reach into detectors, mappings and dataclasses among the arguments.

    Raises:
        InputError: if there is no such argument.
    """
    out: Any = detector
    for path, value in changes.items():
        out = _with(out, path.split("."), value, path)
    return _with(out, [], None, "")


def _with(owner: Any, steps: list[str], value: Any, path: str) -> Any:
    """A copy of ``owner`` with ``value`` at the end of ``steps``; the detectors among its arguments are copied."""
    if not isinstance(owner, Detector | Mapping) and not (is_dataclass(owner) and not isinstance(owner, type)):
        if steps:
            raise InputError(f"Search: {path!r} reaches into {owner!r}, which has no argument {steps[0]!r}")
        return copy.deepcopy(owner)
    entries = _entries(owner)
    if steps and steps[0] not in entries:
        near = get_close_matches(steps[0], entries, n=3) or list(entries)
        raise InputError(f"Search: {type(owner).__name__} has no argument {steps[0]!r}; write one of {', '.join(near)}")
    for name, entry in entries.items():
        if steps and name == steps[0]:
            entries[name] = value if len(steps) == 1 else _with(entry, steps[1:], value, path)
        else:
            entries[name] = _with(entry, [], None, "")
    if isinstance(owner, Mapping):
        return entries
    return type(owner)(**entries) if isinstance(owner, Detector) else replace(owner, **entries)


def _entries(owner: Any) -> dict[str, Any]:
    """Arguments of a detector (what it made of those that are None), items of a mapping, fields of a dataclass."""
    if not isinstance(owner, Detector):
        return dict(owner) if isinstance(owner, Mapping) else dict(vars(owner))
    return arguments(owner)


def _score_only(detector: Detector, path: str) -> bool:
    """Whether an argument changes neither ``update`` nor ``compute``."""
    *steps, name = path.split(".")
    owner: Any = detector
    for step in steps:
        owner = _entries(owner).get(step) if isinstance(owner, Detector) else None
    return isinstance(owner, LogitScore) or (isinstance(owner, Detector) and name in owner.score_only)
