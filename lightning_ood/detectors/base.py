"""The contract of a detector: what it reads, what it sums up, what it fits, how it scores."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_ood.detectors.nesting import metrics_in, unnest
from lightning_ood.detectors.spec import plain, remembering
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, Head, NetworkInfo
from lightning_ood.views import View
from lightning_ood.views.perturbation import Perturbation

Fitted = Mapping[str, Tensor]

SMALLEST = 1e-6  # a score that enters a product is at least this


class Detector(Metric):
    """Two pure functions with sums between them: ``update`` and ``compute`` fit, ``score`` scores.

    A score is higher where an image is more in-distribution. What a detector sums over images it declares with
    ``add_state(name, identity, reduce)`` in ``setup``: reset, device moves, synchronisation of processes and merging
    follow from that line. ``compute`` turns the sums over all processes into the fitted tensors that are saved.
    A detector that fits nothing overrides neither. A detector may hold other detectors or sketches as attributes.

    Attributes:
        taps: names of the maps that ``update`` or ``score`` read, ``last`` being the map before global pooling.
        gradients: the taps for which it also reads the gradient of KL(uniform || softmax).
        attention: whether it reads the class token's attention.
        views: other views of the training images that ``update`` reads.
        val_ood: whether its fit reads validation OOD images, for a search (``update_ood``).
        linear_head: whether it needs the weights of a linear classifier.
        score_only: arguments that ``score`` alone reads, so that a search fits once for all their values.
        positive: whether its score has a positive form, whose logarithm ``log_score`` gives.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    update_called = True  # a process without images is no mistake: torchmetrics need not warn of it

    taps: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    attention: bool = False
    views: tuple[View, ...] = ()
    val_ood: bool = False
    linear_head: bool = False
    score_only: tuple[str, ...] = ()

    head: Head | None = None

    def __init__(self) -> None:
        super().__init__()  # none of torchmetrics' arguments is a detector's

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = remembering(cls.__init__)  # type: ignore[method-assign]
        for name in {"score", "log_score"} & vars(cls).keys():
            setattr(cls, name, _after_fit(vars(cls)[name]))

    def _wrap_compute(self, compute: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
        """Brings the processes together around ``compute``: torchmetrics' own also keeps and copies what was fitted."""

        @functools.wraps(compute)
        def together() -> dict[str, Tensor]:
            sync, unsync = self._to_sync, self._should_unsync
            with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=sync, should_unsync=unsync):
                return compute()

        return together

    @property
    def positive(self) -> bool:
        """False in a detector whose scores are never positive and that has no ``log_score`` of its own."""
        return True

    def spec(self) -> dict[str, Any]:
        """Its class and arguments in plain values: what a saved fit is compared with."""
        arguments = {name: plain(value) for name, value in getattr(self, "_arguments", {}).items()}
        return {"class_path": f"{type(self).__module__}.{type(self).__name__}", "init_args": arguments}

    def setup(self, info: NetworkInfo) -> None:
        """Learns the network's shapes, chooses taps and declares states. Called again before every fit.

        Raises:
            InputError: if the network or the fit set lacks what the detector needs.
        """
        if self.linear_head and info.head is None:
            what = (
                f"{type(self).__name__} reads the weights of a linear classifier and this network's is not one linear"
            )
            raise InputError(f"{what} layer; leave the detector out for this network")
        for tap in dict.fromkeys((*self.taps, *self.gradients)):
            self._require_map(tap, info)
        self.head = info.head
        for child in self._parts():
            if isinstance(child, Detector):
                child.setup(info)

    def update(self, features: Features) -> None:
        """Adds a batch of training images to the sums. The default has nothing to fit."""

    def update_ood(self, features: Features) -> None:
        """Takes a batch of validation OOD images, where a run has some: for a search alone. The default ignores it."""

    def compute(self) -> dict[str, Tensor]:
        """The fitted tensors, from the sums over all processes. The default has none.

        A whole number without an axis (which block, which candidate) stays on the host, to be read there.
        """
        return {}

    @abstractmethod
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch.

        Args:
            features: B images.
            fitted: what ``compute`` returned.

        Returns:
            ``[B]``, higher = more in-distribution.
        """

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]``, the logarithm of the score's positive form: what a weighted geometric mean of scores adds up.

        Increases with the score. The default takes the score itself, at least 1e-6; a detector whose score is a
        logarithm already, or is negative by construction, overrides it.
        """
        return self.score(features, fitted).clamp_min(SMALLEST).log()

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """The steps of the images that ``score`` reads, given the fit: those of the detectors that it holds.

        To be overridden where a part's fit is not nested under the part's attribute.
        """
        parts = [(name, part) for name, part in self.named_children() if isinstance(part, Detector)]
        return [step for name, part in parts for step in part.perturbations(unnest(name, fitted))]

    @property
    def extra_forwards(self) -> dict[str, int]:
        """Forward passes per image, beyond the one that all detectors share, in ``fit`` and in ``test``."""
        views = {view for part in self.family() for view in part.views}
        return {"fit": len(views), "test": len(set(self.perturbations({})))}

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """What a report says of the fit, in plain values: a threshold, a chosen block, a curve. Nothing by default."""
        return {}

    @property
    def fits(self) -> bool:
        """Whether it has to see training images before it can score."""
        own = type(self).update is not Detector.update
        return own or any(part.fits for part in self.family() if part is not self)

    def family(self) -> Iterator[Detector]:
        """This detector and those it holds."""
        yield self
        for child in self._parts():
            if isinstance(child, Detector):
                yield from child.family()

    def reset(self) -> None:
        """Back to the identity, the parts included."""
        super().reset()
        for child in self._parts():
            child.reset()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Takes in the sums of another detector of the same kind, the parts included."""
        if not isinstance(incoming_state, Detector):
            raise TypeError(f"merge_state takes a {type(self).__name__}, not {type(incoming_state).__name__}")
        super().merge_state(incoming_state)
        for child, incoming in zip(self._parts(), incoming_state._parts(), strict=True):
            child.merge_state(incoming)

    def _require_map(self, tap: str, info: NetworkInfo) -> None:
        if tap not in info.maps:
            advice = write_one_of(tap, info.maps)
            raise InputError(f"{type(self).__name__} reads the map {tap!r}, which this network does not have; {advice}")

    def _require_images(self, seen: Tensor) -> None:
        """For ``compute``: refuses to fit on nothing.

        Raises:
            InputError: if ``seen``, a count of images or entries, is zero.
        """
        if not seen.any():
            raise InputError(f"{type(self).__name__} was fitted on no image; give it a training set that is not empty")

    def _parts(self) -> list[Metric]:
        """The detectors and sketches held directly, in containers too."""
        return list(metrics_in(self))


def _after_fit(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes a scoring method refuse the empty ``fitted`` of a detector that has to be fitted."""

    @functools.wraps(score)
    def checked(self: Detector, features: Features, fitted: Fitted) -> Tensor:
        if not fitted and self.fits:
            raise InputError(f"{type(self).__name__} scores only after a fit: run `python train.py fit` first")
        return score(self, features, fitted)

    return checked


class LogitScore(Detector):
    """A score of the logits alone. Shapings (ReAct, DICE, LINe, …) take one as their ``base``."""

    @abstractmethod
    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits ``[B, K]``: ``[B]``, higher = more in-distribution."""

    def log_of_logits(self, logits: Tensor) -> Tensor:
        """The logarithm of the positive form of the score of ``logits``: see ``log_score``."""
        return self.of_logits(logits).clamp_min(SMALLEST).log()

    def steps(self, owner: Detector, logits: Callable[[Features], Tensor]) -> list[Perturbation]:
        """The steps of the images that the score is of, where ``owner`` makes the ``logits``. None by default."""
        return []

    def sees(self, owner: Detector, features: Features) -> Features:
        """The features that ``owner`` is to score: those of the images themselves, or of their perturbation."""
        return features

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Those of the network's own logits."""
        return self.steps(self, lambda features: features.logits)

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores the network's own logits."""
        return self.of_logits(self.sees(self, features).logits)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Of the network's own logits."""
        return self.log_of_logits(self.sees(self, features).logits)
