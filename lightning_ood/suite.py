"""Fits and scores several detectors together; the only loop over detectors in the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.doubts import Seen, jigsaw_doubts
from lightning_ood.detectors.witness import Witness
from lightning_ood.errors import InputError, NotFiniteError, context
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.ops.transfer import Mover

Fits = dict[str, dict[str, Tensor]]  # detector -> its fitted tensors
Phase = Literal["fit", "test"]
Step = Literal["setup", "fit", "compute", "score"]
T = TypeVar("T")

_DOING: dict[Step, str] = {"setup": "", "fit": "fitting ", "compute": "fitting ", "score": "scoring with "}


class DetectorSuite:
    """Fits and scores named detectors from the same batches.

    Call ``setup``, ``update`` for each batch of training images, ``compute``, and ``score`` for each batch of test
    images. The sums are exact on any number of processes. Every process calls ``compute``, even without images.

    Args:
        detectors: name -> detector, or None to leave out a detector that an earlier config names.

    Attributes:
        detectors: name -> detector, in order.
        fitted: name -> fitted tensors of the detectors that require a fit and have one.
        refused: name -> why a detector cannot be fitted on the training images at all.
        doubts: name -> sentences about what is doubtful, of the detectors that a fit pass has looked at.
    """

    def __init__(self, detectors: Mapping[str, Detector | None]) -> None:
        self.detectors = {name: detector for name, detector in detectors.items() if detector is not None}
        self.fitted: Fits = {}
        self.refused: dict[str, InputError] = {}
        self.doubts: dict[str, list[str]] = {}
        self._witness: Witness | None = None
        self._next = 0  # position of the next training image, if batches have no index

    @property
    def requiring_fit(self) -> dict[str, Detector]:
        """Detectors that have to be fitted on training images before they can score."""
        return {name: detector for name, detector in self.detectors.items() if detector.requires_fit}

    @property
    def unfitted(self) -> dict[str, Detector]:
        """Detectors that still have to be fitted, and can be."""
        done = self.fitted.keys() | self.refused.keys()
        return {name: detector for name, detector in self.requiring_fit.items() if name not in done}

    def refuse_without_labels(self) -> None:
        """Takes the detectors that need labels out of the fit, before ``setup``; the others are fitted."""
        for name, detector in self.unfitted.items():
            if detector.needs_labels:
                self.refused[name] = InputError(
                    f"detector {name!r} needs the labels of the training images, and they have none; give class "
                    f"labels, or leave it out (--scoring.detectors.{name} null)"
                )

    def leave_out_logits(self) -> list[str]:
        """Removes the detectors that read logits, and returns their names."""
        removed = [name for name, detector in self.detectors.items() if detector.needs_logits]
        self.detectors = {name: detector for name, detector in self.detectors.items() if name not in removed}
        return removed

    def leave_out_unusable(self, info: NetworkInfo, images: bool = True) -> dict[str, str]:
        """Removes the detectors that cannot be set up on a network.

        Args:
            info: of the network.
            images: whether batches come from images. If not, detectors that read more than logits and penultimate
                feature are removed too.

        Returns:
            name -> reason.
        """
        removed: dict[str, str] = {}
        for name, detector in self.detectors.items():
            try:
                detector.setup(info.sharing())
            except InputError as error:
                removed[name] = str(error)
                continue
            reads = detector.reads
            more = (
                reads.taps or reads.gradients or reads.attention or reads.views or any(detector.extra_forwards.values())
            )
            if more and not images:
                removed[name] = "it reads maps, views or gradients"
        self.detectors = {name: detector for name, detector in self.detectors.items() if name not in removed}
        return removed

    def setup(self, info: NetworkInfo) -> None:
        """Sets up every detector; detectors that are fitted together share their statistics.

        Raises:
            InputError: if the network or the fit set lacks what a detector needs; names the detector and the reason.
        """
        info = info.sharing()
        self._next = 0
        # Unfitted detectors first: the first to ask for a statistic owns it, and only an unfitted one is updated.
        for name, detector in {**self.unfitted, **self.detectors}.items():
            self.attempt("setup", name, partial(detector.setup, info))
        self._witness = Witness(list(self.detectors.values()), self.reads("fit"), info) if self.unfitted else None

    def reads(self, phase: Phase) -> Reads:
        """Returns the fields of a batch that the detectors read, for ``Backbone.configure``.

        Args:
            phase: ``fit``, where only unfitted detectors read, or ``test``, after the fit.
        """
        if phase == "fit":
            return Reads.union(detector.reads for detector in self.unfitted.values())
        total = Reads.union(detector.reads for detector in self.detectors.values())
        perturbations = []
        for name, detector in self.detectors.items():
            if detector.extra_forwards["test"]:
                with torch.inference_mode(False):  # an inference tensor cannot be part of a gradient's graph
                    fitted = {key: value.clone() for key, value in self.fitted.get(name, {}).items()}
                perturbations += detector.perturbations(fitted)
        return replace(total, views=(), val_ood=False) | Reads(perturbations=tuple(perturbations))

    def update(self, features: Features) -> None:
        """Adds a batch of ID training images to the sums of every unfitted detector.

        Images of batches without ``index`` are counted from ``setup`` on; then read them in the same order each time.
        """
        if features.index is None:
            features = replace(features, index=torch.arange(self._next, self._next + len(features)))
        self._next += len(features)
        for name, detector in self.unfitted.items():
            self.attempt("fit", name, partial(detector.update, features))
        if self._witness is not None:
            self._witness.update(features)

    def update_ood(self, features: Features) -> None:
        """Passes a batch of validation OOD images to every unfitted detector; searches use it."""
        for name, detector in self.unfitted.items():
            self.attempt("fit", name, partial(detector.update_ood, features))

    def compute(self) -> dict[str, InputError]:
        """Computes the missing fits from the sums over all processes, moves them to the CPU and resets the sums.

        Returns:
            name -> error of each detector that could not be fitted. One failure does not discard the others' fits.
        """
        reasons = dict(self.refused)
        to_host = Mover("cpu")
        for name, detector in self.unfitted.items():
            try:
                fitted = self.attempt("compute", name, partial(_fit, detector))
            except InputError as error:
                reasons[name] = error
            else:
                self.fitted |= {} if fitted is None else {name: to_host(fitted)}
        if self._witness is not None:
            self._look_for_doubts(self._seen(self._witness))
            self._witness.reset()
        for detector in self.detectors.values():  # after the loop: a reset of its owner empties a shared statistic
            detector.reset()
        return reasons

    def _seen(self, witness: Witness) -> Seen:
        """Returns what the fit pass saw. A dry run on a part of the images overrides it with the whole set's counts."""
        return witness.compute()

    @torch.no_grad()
    def _look_for_doubts(self, seen: Seen) -> None:
        for name, detector in self.detectors.items():
            without_fit = detector.requires_fit and name not in self.fitted
            if name in self.doubts or without_fit or seen.images == 0:
                continue
            fitted = {key: value.cpu() for key, value in self.fitted.get(name, {}).items()}
            with context(f"doubts of detector {name!r}"):
                self.doubts[name] = [*jigsaw_doubts(detector, fitted, seen), *detector.doubts(fitted, seen)]

    def score(self, features: Features) -> Tensor:
        """Scores a batch with every detector: ``[B, detectors]`` float32, higher = more in-distribution."""
        columns = [self.attempt("score", name, partial(self._score, name, features)) for name in list(self.detectors)]
        scores = [column for column in columns if column is not None]  # [B] of each detector
        return torch.stack(scores, dim=1) if scores else torch.empty(len(features), 0)

    def _score(self, name: str, features: Features) -> Tensor:
        score = self.detectors[name].score(features, self.fitted.get(name, {}))
        if score.shape != (len(features),):
            raise ValueError(f"score must return one number per image [{len(features)}], not {list(score.shape)}")
        return score.detach().float()

    def attempt(self, step: Step, name: str, call: Callable[[], T]) -> T | None:
        """Calls a method of one detector and adds the detector's name to its errors.

        The suite sets up, fits and scores detectors through this method alone. A dry run overrides it, to measure the
        time and to return None for a detector that fails.
        """
        with context(f"{_DOING[step]}detector {name!r}"):
            return call()

    def to(self, device: torch.device | str) -> DetectorSuite:
        """Moves sums and fitted tensors to a device; a fitted tensor that detectors share stays shared."""
        move = Mover(device)
        for detector in self.detectors.values():
            detector.to(device)
        self.fitted = {name: move(fitted) for name, fitted in self.fitted.items()}
        if self._witness is not None:
            self._witness.to(device)
        return self

    def reset(self) -> None:
        """Resets all sums and drops all fits."""
        for detector in self.detectors.values():
            detector.reset()
        self.fitted, self.refused = {}, {}
        self.doubts, self._witness = {}, None

    def state_dict(self) -> dict[str, Any]:
        """Returns ``fitted``, name -> tensors, and in plain values ``spec`` and ``doubts``.

        ``spec`` is name -> class and arguments of the fit; ``doubts`` holds the same and the sentences, also of
        detectors that fit nothing.
        """
        spec = {name: self.detectors[name].config() for name in self.fitted}
        doubts = {name: {"spec": self.detectors[name].config(), "said": said} for name, said in self.doubts.items()}
        return {"fitted": dict(self.fitted), "spec": spec, "doubts": doubts}

    def keep(self, state: Mapping[str, Any]) -> list[str]:
        """Loads those fits of a ``state_dict`` whose detector has the same arguments, and returns their names."""
        same = [name for name, d in self.requiring_fit.items() if state["spec"].get(name) == d.config()]
        self.fitted = {name: dict(state["fitted"][name]) for name in same}
        self.doubts = {
            name: list(entry["said"])
            for name, entry in state.get("doubts", {}).items()
            if name in self.detectors and entry["spec"] == self.detectors[name].config()
        }
        return same

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the fits of a ``state_dict``.

        Raises:
            InputError: if ``state`` lacks the fit of a detector that requires one, or has one of other arguments.
        """
        missing = [name for name in self.requiring_fit if name not in state["fitted"]]
        if missing:
            raise InputError(
                f"not fitted: {', '.join(missing)} (fitted: {', '.join(state['fitted']) or 'none'}). "
                "Run `python train.py fit` with the same --config first"
            )
        for name, detector in self.requiring_fit.items():
            was, now = state["spec"].get(name), detector.config()
            if was != now:
                raise InputError(
                    f"detector {name!r} was fitted as {was} and is now {now}. Run `python train.py fit` again, or give "
                    "it the arguments it was fitted with"
                )
        self.keep(state)


def _fit(detector: Detector) -> dict[str, Tensor]:
    advice = "look for non-finite features, or leave the detector out"
    try:
        fitted = detector.compute()
    except torch.linalg.LinAlgError as error:
        raise NotFiniteError(f"{error} {advice}") from error
    for key, value in fitted.items():
        if value.is_floating_point() and value.isnan().any():
            raise NotFiniteError(f"the fitted tensor {key!r} contains NaN: {advice}")
    return fitted
