"""Search of a detector's arguments from the features of one pass, on pseudo-OOD or on validation OOD images."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.detectors._contract import arguments, nest, unnest
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, ends_of, inside, search_doubts
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.pseudo_ood import Criterion, PseudoOOD, criterion
from lightning_ood.detectors.ranges import check_at_least, check_share
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, View


class Search(Detector):
    """Searches a detector's arguments: fits and tests every combination of a grid, and scores with the best one.

    All candidates are fitted in the same pass. Each then scores ``images`` ID training images and as many pseudo-OOD
    images, from features that are stored during the pass (``FeatureSample``), without a forward per candidate.
    Pseudo-OOD are views of the training images (one more forward per image and view). If ``pseudo_ood`` is empty, a
    validation OOD set is used (``data.val_ood``). The criterion is averaged over the pseudo-OOD sets; of equal
    candidates the first of the grid is chosen.

    The scored ID images are held out of the fit, since a detector that memorises training images (KNN with a small k)
    would seem perfect on them. If no candidate requires a fit, none are held out.

    State: that of the candidates plus the samples. Candidates that differ only in arguments that scoring alone reads
    (``score_only``, and the arguments of a score of the logits) have one state together. Fitted: ``chosen``,
    ``criterion`` [pseudo-OOD sets, candidates], ``dead`` [arguments] and the fit of the chosen candidate, under
    ``of.``.

    Args:
        of: the detector, with the arguments that the grid does not name. ReAct where None.
        grid: argument -> values. A dot reaches into an argument: ``base.temperature``, ``layers.pooled.alpha``.
            The percentile of ReAct where None.
        pseudo_ood: views of training images that are used as OOD; a 3x3 jigsaw where None, a validation OOD set where
            empty.
        criterion: ``auroc``, or ``fpr95`` with ID positive.
        images: largest number of images of each kind.
        held_out: fraction of the training images that are scored and not fitted on.
        seed: seed of the samples.

    Raises:
        InputError: if the grid is empty or names an argument that the detector does not have.
    """

    reads_logits = False

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
        self._template = (template,)  # a tuple, so that it is not registered: only the candidates are fitted
        if grid is None:
            grid = {"percentile": [80, 85, 90, 95, 99]} if of is None else {}
        if not grid or not all(grid.values()):
            raise InputError("Search needs a grid: at least one argument, each with at least one value")
        self.grid, self.criterion = {name: list(values) for name, values in grid.items()}, criterion
        self.choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        # A tuple, so that candidates are not registered: only the leader of each group is updated, moved and merged.
        self.candidates = tuple(varied(template, choice) for choice in self.choices)
        fitted_alike = [path for path in grid if _score_only(template, path)]
        groups = [repr([(k, v) for k, v in choice.items() if k not in fitted_alike]) for choice in self.choices]
        self.leader = [groups.index(group) for group in groups]
        self.leaders = nn.ModuleList(self.candidates[i] for i in dict.fromkeys(self.leader))
        self.pseudo_ood = [Jigsaw()] if pseudo_ood is None else list(pseudo_ood)
        self.views = tuple(self.pseudo_ood)
        self.val_ood = not self.views
        self.positive = all(candidate.positive for candidate in self.candidates)
        check_at_least("images", images, 1)
        check_share("held_out", held_out)
        self.images, self.held_out, self.seed = images, held_out, seed

    @property
    def of(self) -> Detector:
        """The detector whose arguments are searched."""
        return self._template[0]

    def setup(self, info: NetworkInfo) -> None:
        """Sets up every candidate and the samples."""
        inner = info.holding_out() if self.held_out else info
        super().setup(inner)
        for i, candidate in enumerate(self.candidates):
            if self.leader[i] != i:
                candidate.setup(inner)
        self.trial = PseudoOOD(self.candidates, self.views, info, self.images, self.held_out, self.seed)

    def update(self, features: Features) -> None:
        """Adds a batch to the candidates and to the samples."""
        fitted_on = self.trial.update(features)
        for candidate in self.leaders:
            if len(fitted_on):
                candidate.update(fitted_on)  # type: ignore[operator]

    def update_ood(self, features: Features) -> None:
        """Adds a batch of validation OOD images, which are used if ``pseudo_ood`` is empty."""
        self.trial.update_ood(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``chosen``, ``criterion``, ``dead``, and the fit of the chosen candidate under ``of.``.

        Raises:
            InputError: if a pseudo-OOD set has no image, or a score of a candidate is not finite.
        """
        of = {i: c.compute() if c.requires_fit else {} for i, c in enumerate(self.candidates) if self.leader[i] == i}
        fitted = [of[i] for i in self.leader]
        id_scores, ood_scores = self.trial.compute(fitted)  # [n, candidates]; one [m, candidates] per pseudo-OOD set
        for i, choice in enumerate(self.choices):
            if not all(scores[:, i].isfinite().all() for scores in (id_scores, *ood_scores)):
                raise InputError(f"Search: {_text(choice)} gives scores that are not finite; leave it out")
        values = torch.stack([self._criteria(id_scores, scores) for scores in ood_scores])  # [sets, candidates]
        gain = values.mean(dim=0) if self.criterion == "auroc" else -values.mean(dim=0)  # [candidates]
        chosen = int((gain >= gain.max() - 1e-9).nonzero()[0])
        dead = _dead(torch.cat([id_scores, *ood_scores]), [len(v) for v in self.grid.values()])
        result = {"chosen": torch.tensor(chosen), "criterion": values, "dead": torch.tensor(dead)}
        return {**result, **nest("of", fitted[chosen])}

    def _criteria(self, id_scores: Tensor, ood_scores: Tensor) -> Tensor:
        """Computes the criterion of each candidate, ``[candidates]``."""
        columns = zip(id_scores.unbind(dim=1), ood_scores.unbind(dim=1), strict=True)
        return torch.stack([criterion(ids, oods, self.criterion) for ids, oods in columns])

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch with the chosen candidate: ``[B]``."""
        return self._chosen(fitted).score(features, unnest("of", fitted))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the ``log_score`` of the chosen candidate, ``[B]``."""
        return self._chosen(fitted).log_score(features, unnest("of", fitted))

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the chosen values, the criterion of every candidate, and the arguments that change no score."""
        summary: dict[str, float | str] = {}
        for name, value in self.choices[int(fitted["chosen"])].items():
            summary[name] = value if isinstance(value, int | float | str) else str(value)
        values = fitted["criterion"]
        for name, row in zip(self.trial.names, (100 * values).tolist(), strict=True):
            grid = "; ".join(f"{_text(c)}: {v:.2f}" for c, v in zip(self.choices, row, strict=True))
            summary[f"{self.criterion} against {name}"] = grid
        dead = [name for name, is_dead in zip(self.grid, fitted["dead"].tolist(), strict=True) if is_dead]
        summary |= {"dead": ", ".join(dead)} if dead else {}
        of_chosen = self._chosen(fitted).summary(unnest("of", fitted))
        return {**summary, **{f"of.{key}": value for key, value in of_chosen.items()}}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts an end of the grid, a best candidate below chance, and what the chosen candidate doubts."""
        choice = self.choices[int(fitted["chosen"])]
        alive = [name for name, dead in zip(self.grid, fitted["dead"].tolist(), strict=True) if not dead]
        values = fitted["criterion"].mean(dim=0)
        best = float(values.max()) if self.criterion == "auroc" else 1.0
        own = search_doubts(best, ends_of({name: self.grid[name] for name in alive}, choice))
        return own + inside("of", self._chosen(fitted).doubts(unnest("of", fitted), seen))

    def _chosen(self, fitted: Fitted) -> Detector:
        return self.candidates[int(fitted["chosen"])]


def _text(choice: Mapping[str, Any]) -> str:
    """Formats the arguments of a candidate as ``name=value, name=value``."""
    return ", ".join(f"{name}={value}" for name, value in choice.items())


def _dead(scores: Tensor, lengths: list[int]) -> list[bool]:
    """Tells for each axis of a grid whether no score changes along it.

    Args:
        scores: ``[images, candidates]``, the candidates in row-major order of the grid.
        lengths: number of values on each axis.
    """
    cube = scores.reshape(-1, *lengths)  # [images, values of axis 1, values of axis 2, ...]
    tolerance = 1e-6 * scores.abs().amax()
    dead = []
    for axis, length in enumerate(lengths, start=1):
        change = cube.amax(dim=axis) - cube.amin(dim=axis)
        dead.append(length > 1 and bool((change <= tolerance).all()))
    return dead


def varied(detector: Detector, changes: Mapping[str, Any]) -> Detector:
    """Returns a copy of a detector with some arguments changed.

    Args:
        detector: the original, which is not changed.
        changes: argument -> value; dots reach into detectors, mappings and dataclasses among the arguments.

    Raises:
        InputError: if an argument does not exist.
    """
    out: Any = detector
    for path, value in changes.items():
        out = _with(out, path.split("."), value, path)
    return _with(out, [], None, "")


def _with(owner: Any, steps: list[str], value: Any, path: str) -> Any:
    """Copies ``owner`` and its arguments, with ``value`` for the argument that the names ``steps`` lead to."""
    if not isinstance(owner, Detector | Mapping) and not (is_dataclass(owner) and not isinstance(owner, type)):
        if steps:
            raise InputError(f"Search: {path!r} reaches into {owner!r}, which has no argument {steps[0]!r}")
        return copy.deepcopy(owner)
    entries = _entries(owner)
    if steps and steps[0] not in entries:
        advice = write_one_of(steps[0], entries)
        raise InputError(f"Search: {type(owner).__name__} has no argument {steps[0]!r}; {advice}")
    for name, entry in entries.items():
        if steps and name == steps[0]:
            entries[name] = value if len(steps) == 1 else _with(entry, steps[1:], value, path)
        else:
            entries[name] = _with(entry, [], None, "")
    if isinstance(owner, Mapping):
        return entries
    return type(owner)(**entries) if isinstance(owner, Detector) else replace(owner, **entries)


def _entries(owner: Any) -> dict[str, Any]:
    """Returns the arguments of a detector (after defaults are filled in), or the items or fields of another object."""
    if not isinstance(owner, Detector):
        return dict(owner) if isinstance(owner, Mapping) else dict(vars(owner))
    return arguments(owner)


def _score_only(detector: Detector, path: str) -> bool:
    """Tells whether an argument changes neither ``update`` nor ``compute``."""
    *steps, name = path.split(".")
    owner: Any = detector
    for step in steps:
        owner = _entries(owner).get(step) if isinstance(owner, Detector) else None
    return isinstance(owner, LogitScore) or (isinstance(owner, Detector) and name in owner.score_only)
