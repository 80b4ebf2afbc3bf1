"""The base class of every detector: what it reads, which sums it keeps, what it fits and how it scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor
from torchmetrics import Metric

from lightning_ood.detectors._contract import after_fit, arguments, children, plain, unnest
from lightning_ood.detectors.doubts import Seen, inside
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, Head, NetworkInfo, Reads
from lightning_ood.statistics import Shared
from lightning_ood.statistics._torchmetrics import UncachedAccumulator
from lightning_ood.views import Perturbation, View

Fitted = Mapping[str, Tensor]

SMALLEST = 1e-6  # lower bound of a score whose logarithm is taken


class Detector(UncachedAccumulator):
    """Base class of detectors: ``update`` and ``compute`` fit on training images, ``score`` scores test images.

    A higher score is more in-distribution. A detector declares each sum over images with
    ``add_state(name, default, reduce)`` in ``setup``; reset, device moves, synchronisation between processes and
    merging follow from that line. ``compute`` turns the sums over all processes into the fitted tensors, which are
    saved. A detector that fits nothing overrides neither ``update`` nor ``compute``. A detector may have other
    detectors or statistics as attributes. ``__init__`` stores each argument as an attribute of the same name.

    Attributes:
        taps: names of the maps that ``update`` or ``score`` read; ``last`` is the map before global pooling.
        gradients: taps for which the gradient of KL(uniform || softmax) is read too.
        attention: whether the class token's attention is read.
        views: transforms of the training images that ``update`` reads.
        steps: perturbations of the images that ``update`` and ``score`` read, whatever the fit.
        val_ood: whether the fit reads validation OOD images, for a search (``update_ood``).
        linear_head: whether the weights of a linear classifier are needed.
        labels: whether the fit needs the labels of the training images.
        banks: names of fitted tensors ``[n, ...]`` with a row per training image of a sample; any sample of the rows
            is a fit too, which ``export --bank`` uses.
        map_form: what ``score`` reads of each map, so that a sample of features keeps no more: the ``whole``, or of
            each channel the ``mean`` over positions or the ``norm`` of the positive part.
        reads_logits: whether logits, predicted classes or the classifier's weights change a score, apart from children.
        score_only: arguments that only ``score`` reads, so that a search fits once for all their values.
        positive: whether the score has a positive form, whose logarithm ``log_score`` returns. False where scores are
            never positive and the class does not override ``log_score``.
    """

    higher_is_better = True
    is_differentiable = False

    taps: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    attention: bool = False
    views: tuple[View, ...] = ()
    steps: tuple[Perturbation, ...] = ()
    val_ood: bool = False
    linear_head: bool = False
    labels: bool = False
    banks: tuple[str, ...] = ()
    map_form: Literal["whole", "mean", "norm"] = "whole"
    reads_logits: bool = True
    score_only: tuple[str, ...] = ()
    positive: bool = True

    head: Head | None = None

    def __init__(self) -> None:
        super().__init__()  # a detector takes none of torchmetrics' arguments

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"score", "log_score"} & vars(cls).keys():
            setattr(cls, name, after_fit(vars(cls)[name]))

    def before_sync(self) -> None:
        """Makes all processes agree on which of the shared statistics this detector has to itself."""
        for child in self._children():
            if isinstance(child, Shared):
                child.settle()

    def config(self) -> dict[str, Any]:
        """Returns class path and arguments in plain values; a saved fit is compared with them."""
        class_path = f"{type(self).__module__}.{type(self).__name__}"
        return {"class_path": class_path, "init_args": {k: plain(v) for k, v in arguments(self).items()}}

    def setup(self, info: NetworkInfo) -> None:
        """Reads the network's shapes, chooses taps and declares states. Called again before every fit.

        Raises:
            InputError: if the network or the fit set lacks what the detector needs.
        """
        if self.linear_head and info.head is None:
            raise InputError(
                f"{type(self).__name__} reads the weights of a linear classifier, and the classifier of this network "
                "is not one linear layer; leave the detector out for this network"
            )
        for tap in dict.fromkeys((*self.taps, *self.gradients)):
            self._require_map(tap, info)
        self.head = info.head
        for child in self._children():
            if isinstance(child, Detector):
                child.setup(info)

    def update(self, features: Features) -> None:
        """Adds a batch of training images to the sums. The default does nothing."""

    def update_ood(self, features: Features) -> None:
        """Adds a batch of validation OOD images, if the run has any. Only a search uses them."""

    def compute(self) -> dict[str, Tensor]:
        """Computes the fitted tensors from the sums over all processes. The default returns none.

        An integer scalar (index of a block or a candidate) stays on the host, where it is read.
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
        """Returns the logarithm ``[B]`` of the score's positive form, for weighted geometric means of scores.

        It increases with the score. The default is the logarithm of the score, floored at 1e-6. A detector whose score
        is already a logarithm, or negative by construction, overrides it.
        """
        return self.score(features, fitted).clamp_min(SMALLEST).log()

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Returns the perturbations of test images that ``score`` reads, given the fit; by default own and children's.

        A detector overrides it if it stores a child's fit under another prefix than the child's attribute name.
        """
        inner = [(name, child) for name, child in self.named_children() if isinstance(child, Detector)]
        return [*self.steps, *(step for name, child in inner for step in child.perturbations(unnest(name, fitted)))]

    @property
    def reads(self) -> Reads:
        """The fields of a batch that this detector and its descendants read in a fit, after ``setup``."""
        return Reads.union(
            Reads(one.taps, one.gradients, one.attention, one.views, one.steps, one.linear_head, one.val_ood)
            for one in self.descendants()
        )

    @property
    def extra_forwards(self) -> dict[str, int]:
        """Number of forward passes per image beyond the one that all detectors share, in ``fit`` and in ``test``."""
        reads = self.reads
        return {"fit": len(reads.views) + len(reads.perturbations), "test": len(set(self.perturbations({})))}

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """Returns plain values of the fit for the report (a threshold, a chosen block, a curve); none by default."""
        return {}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Returns what is doubtful about the fit: a sentence each, what was found, why it matters, what to write.

        The default returns those of the children. A detector overrides it, with ``super().doubts(fitted, seen)``, if
        its numbers can be right and useless: too few images, constants of another network, a search without an answer.

        Args:
            fitted: what ``compute`` returned.
            seen: what the fit pass saw; nothing else is computed for it.
        """
        inner = [(name, child) for name, child in self.named_children() if isinstance(child, Detector)]
        return [doubt for name, child in inner for doubt in inside(name, child.doubts(unnest(name, fitted), seen))]

    @property
    def requires_fit(self) -> bool:
        """Whether the detector has to be fitted on training images before it can score."""
        own = type(self).update is not Detector.update
        return own or any(one.requires_fit for one in self.descendants() if one is not self)

    @property
    def needs_labels(self) -> bool:
        """Whether the fit of this detector or of a descendant needs the labels of the training images."""
        return any(one.labels for one in self.descendants())

    @property
    def needs_logits(self) -> bool:
        """Whether the score of this detector or of a descendant depends on logits or on a learned classifier."""
        return any(one.reads_logits for one in self.descendants())

    def descendants(self) -> Iterator[Detector]:
        """Yields this detector, its children and their descendants."""
        yield self
        for child in self._children():
            if isinstance(child, Detector):
                yield from child.descendants()

    def reset(self) -> None:
        """Resets all sums to their defaults, also those of child detectors and statistics."""
        super().reset()
        for child in self._children():
            child.reset()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds the sums of another detector of the same class, also those of child detectors and statistics."""
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
        """Checks in ``compute`` that the sums are of at least one image.

        Raises:
            InputError: if ``seen``, a count of images or entries, is zero everywhere.
        """
        if not seen.any():
            raise InputError(f"{type(self).__name__} was fitted on no image; give it a training set that is not empty")

    def _children(self) -> list[Metric | Shared]:
        """Lists the detectors and statistics that are attributes of this one, or inside containers of modules."""
        return list(children(self))
