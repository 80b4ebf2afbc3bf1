"""The contract of a detector: what it reads, what it sums up, what it fits, how it scores."""

from __future__ import annotations

import functools
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_ood.detectors._contract import after_fit, arguments, children, plain, unnest
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, Head, NetworkInfo, Reads
from lightning_ood.statistics import Shared
from lightning_ood.views import Perturbation, View

Fitted = Mapping[str, Tensor]

SMALLEST = 1e-6  # a score that enters a product is at least this


class Detector(Metric):
    """Two pure functions with sums between them: ``update`` and ``compute`` fit, ``score`` scores.

    A higher score is more in-distribution. A detector declares what it sums over images with
    ``add_state(name, default, reduce)`` in ``setup``: reset, device moves, synchronisation of processes and merging
    follow from that line. ``compute`` turns the sums over all processes into the fitted tensors that are saved.
    A detector that fits nothing overrides neither. It may hold other detectors or statistics as attributes.
    ``__init__`` keeps each argument as an attribute of its name.

    Attributes:
        taps: names of the maps that ``update`` or ``score`` read; ``last`` is the map before global pooling.
        gradients: the taps for which it also reads the gradient of KL(uniform || softmax).
        attention: whether it reads the class token's attention.
        views: other views of the training images that ``update`` reads.
        val_ood: whether its fit reads validation OOD images, for a search (``update_ood``).
        linear_head: whether it needs the weights of a linear classifier.
        score_only: arguments that only ``score`` reads, so that a search fits once for all their values.
        positive: whether its score has a positive form, whose logarithm ``log_score`` gives. False where scores are
            never positive and there is no ``log_score`` of its own.
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
    positive: bool = True

    head: Head | None = None

    def __init__(self) -> None:
        super().__init__()  # none of torchmetrics' arguments is a detector's

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"score", "log_score"} & vars(cls).keys():
            setattr(cls, name, after_fit(vars(cls)[name]))

    def _wrap_compute(self, compute: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
        """Brings the processes together around ``compute``: torchmetrics' own also keeps and copies what was fitted."""

        @functools.wraps(compute)
        def together() -> dict[str, Tensor]:
            for child in self._children():
                if isinstance(child, Shared):
                    child.settle()
            sync, unsync = self._to_sync, self._should_unsync
            with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=sync, should_unsync=unsync):
                return compute()

        return together

    def config(self) -> dict[str, Any]:
        """Class and arguments in plain values: what a saved fit is compared with."""
        class_path = f"{type(self).__module__}.{type(self).__name__}"
        return {"class_path": class_path, "init_args": {k: plain(v) for k, v in arguments(self).items()}}

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
        for child in self._children():
            if isinstance(child, Detector):
                child.setup(info)

    def update(self, features: Features) -> None:
        """Adds a batch of training images to the sums. The default has nothing to fit."""

    def update_ood(self, features: Features) -> None:
        """Takes a batch of validation OOD images, where a run has some. Only a search uses them."""

    def compute(self) -> dict[str, Tensor]:
        """The fitted tensors, from the sums over all processes. The default has none.

        An integer scalar (which block, which candidate) stays on the host, which reads it.
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
        """``[B]``, the logarithm of the score's positive form, for weighted geometric means of scores.

        Increases with the score. The default takes the logarithm of the score, floored at 1e-6. A detector whose score
        is a logarithm already, or is negative by construction, overrides it.
        """
        return self.score(features, fitted).clamp_min(SMALLEST).log()

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """The perturbations of the images that ``score`` reads, given the fit. The default asks its children.

        Override it where a child's fit is not nested under the child's attribute.
        """
        held = [(name, child) for name, child in self.named_children() if isinstance(child, Detector)]
        return [step for name, child in held for step in child.perturbations(unnest(name, fitted))]

    @property
    def reads(self) -> Reads:
        """What it and the detectors that it holds read of a batch, after ``setup``; perturbations need the fit."""
        return Reads.union(
            Reads(one.taps, one.gradients, one.attention, one.views, (), one.linear_head, one.val_ood)
            for one in self.descendants()
        )

    @property
    def extra_forwards(self) -> dict[str, int]:
        """Forward passes per image, beyond the one that all detectors share, in ``fit`` and in ``test``."""
        return {"fit": len(self.reads.views), "test": len(set(self.perturbations({})))}

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """What a report shows of the fit, in plain values: a threshold, a chosen block, a curve. Nothing by default."""
        return {}

    @property
    def requires_fit(self) -> bool:
        """Whether it has to see training images before it can score."""
        own = type(self).update is not Detector.update
        return own or any(one.requires_fit for one in self.descendants() if one is not self)

    def descendants(self) -> Iterator[Detector]:
        """This detector and all that it holds."""
        yield self
        for child in self._children():
            if isinstance(child, Detector):
                yield from child.descendants()

    def reset(self) -> None:
        """Resets all sums to their defaults, also in the detectors and statistics that it holds."""
        super().reset()
        for child in self._children():
            child.reset()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds the sums of another detector of the same kind, also in the detectors and statistics that it holds."""
        if not isinstance(incoming_state, Detector):
            raise TypeError(f"merge_state takes a {type(self).__name__}, not {type(incoming_state).__name__}")
        super().merge_state(incoming_state)
        for child, incoming in zip(self._children(), incoming_state._children(), strict=True):
            child.merge_state(incoming)  # type: ignore[arg-type]

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

    def _children(self) -> list[Metric | Shared]:
        """The detectors and statistics that it holds directly or in containers."""
        return list(children(self))


class LogitScore(Detector):
    """A score of the logits alone. Shapings (ReAct, DICE, LINe, …) take one as their ``base``."""

    @abstractmethod
    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits ``[B, K]``: ``[B]``, higher = more in-distribution."""

    def log_of_logits(self, logits: Tensor) -> Tensor:
        """The logarithm of the positive form of the score of ``logits``: see ``log_score``."""
        return self.of_logits(logits).clamp_min(SMALLEST).log()

    def perturbation(self, owner: Detector, logits: Callable[[Features], Tensor]) -> Perturbation | None:
        """The step that an image takes before its logits are scored; none by default.

        Args:
            owner: the detector that makes the logits.
            logits: makes them, ``[B, K]``, from the features of the images themselves.
        """
        return None

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """The step along the gradient of the network's own logits."""
        step = self._step()
        return [] if step is None else [step]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores the network's own logits."""
        return self.of_logits(perturbed(features, self._step()).logits)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """The logarithm for the network's own logits."""
        return self.log_of_logits(perturbed(features, self._step()).logits)

    def _step(self) -> Perturbation | None:
        return self.perturbation(self, lambda features: features.logits)


def name_of(detector: Detector) -> str:
    """A name that equal detectors share: class and arguments as JSON."""
    return json.dumps(detector.config(), sort_keys=True)


def perturbed(features: Features, step: Perturbation | None) -> Features:
    """The features of the images after ``step``; ``features`` itself where it is None.

    Raises:
        InputError: where the batch has no perturbed images: in a fit, or where features were stored.
    """
    if step is None:
        return features
    if step not in features.views:
        raise InputError(
            f"a score of images after a step of {step.step} has none in this batch: only a test pass has them; "
            "write epsilon: 0"
        )
    return features.views[step]
