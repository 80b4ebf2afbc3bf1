"""The inputs of a detector: the features of a batch, the description of the network, and the request to read them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.ops.arrays import convert_fields
from lightning_ood.ops.transfer import beside
from lightning_ood.views import Perturbation, View


@dataclass(frozen=True)
class Head:
    """The linear classifier behind the penultimate feature: ``logits = pooled @ weight.T + bias``.

    Arrays and other floating types become float32 tensors.

    Attributes:
        weight: ``[K, D]``, float32.
        bias: ``[K]``, float32; zeros where the network has none.

    Raises:
        InputError: if a value is no array of numbers of this shape.
    """

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        convert_fields(self, weight=2, bias=1)

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """Length of the penultimate feature, D."""
        return self.weight.shape[1]

    def __call__(self, pooled: Tensor) -> Tensor:
        """Computes logits ``[B, K]`` of penultimate features ``[B, D]``."""
        return F.linear(pooled, self.weight, self.bias)

    def to(self, device: torch.device | str) -> Head:
        """Returns a copy of the head on a device."""
        return Head(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Features:
    """The features of one batch, from one forward pass. Tensors are detached; logits and pooled are float32.

    Arrays and other floating types become float32 tensors.

    Attributes:
        logits: ``[B, K]``.
        pooled: ``[B, D]``, the penultimate feature: the input of the classifier.
        head: the classifier, or None where it is not linear.
        maps: tap -> ``[B, C, H, W]`` (convolutional) or ``[B, C, N]`` (N tokens); the channel always comes first.
        gradients: tap -> d KL(uniform || softmax(logits)) / d map, of the map's shape, for the taps in
            ``Reads.gradients``.
        attention: ``[B, heads, N]``, the class token's attention row in the last block, or None.
        labels: ``[B]`` int64, or None where the set has none.
        index: ``[B]`` int64, positions in the data set, which seed samples and views. Always on the host.
        views: View or Perturbation -> features of the transformed images, for those in ``Reads``.

    Raises:
        InputError: if logits, pooled, labels or index are no array of numbers of this shape.
    """

    logits: Tensor
    pooled: Tensor
    head: Head | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None
    views: Mapping[Hashable, Features] = field(default_factory=dict)

    def __post_init__(self) -> None:
        convert_fields(self, logits=2, pooled=2, labels=1, index=1)
        for name in ("maps", "gradients"):
            if any(not isinstance(value, Tensor) for value in getattr(self, name).values()):
                arrays = {tap: torch.as_tensor(value).float() for tap, value in getattr(self, name).items()}
                object.__setattr__(self, name, arrays)

    def __len__(self) -> int:
        return self.logits.shape[0]

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-softmax ``[B, K]`` of the logits, computed once for all detectors."""
        return self.logits.log_softmax(dim=1)

    @cached_property
    def probs(self) -> Tensor:
        """Softmax ``[B, K]`` of the logits, computed once for all detectors."""
        return self.log_probs.exp()

    @cached_property
    def prediction(self) -> Tensor:
        """Predicted class ``[B]``, the one with the largest logit."""
        return self.logits.argmax(dim=1)

    @cached_property
    def direction(self) -> Tensor:
        """Penultimate feature ``[B, D]`` scaled to unit L2 norm; a zero feature stays zero."""
        return F.normalize(self.pooled, dim=1)

    @cached_property
    def _cache(self) -> dict[tuple[Hashable, int], tuple[Tensor, Tensor]]:
        return {}

    def cached(self, what: Hashable, of: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Returns a value that several detectors compute from this batch, computed once.

        Args:
            what: name of the value.
            of: the fitted tensor that the value depends on. Detectors that share a fit hold the same object.
            compute: computes the value.
        """
        key = (what, id(of))
        if key not in self._cache:
            self._cache[key] = (of, compute())  # keeps `of` alive, so that its id is not given to another tensor
        return self._cache[key][1]

    def similarity(self, bank: Tensor) -> Tensor:
        """Computes the inner products ``[B, R]`` of ``direction`` with the rows of a bank ``[R, D]``, cached."""
        return self.cached("similarity", bank, lambda: self.direction @ bank.T)

    @cached_property
    def products(self) -> Tensor:
        """Sum of ``z z^T`` over the images, ``[D, D]`` float64, z the penultimate feature; computed once."""
        rows = self.pooled.double()
        return rows.T @ rows

    def select(self, rows: Tensor | slice) -> Features:
        """Returns the features of some images of the batch.

        Args:
            rows: boolean mask ``[B]``, int64 positions, or a slice. Tensors on the host cost no synchronisation.
        """
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        shared = {"head"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        return replace(self, **{name: _select(value, rows) for name, value in values.items()})

    def to(self, device: torch.device | str) -> Features:
        """Returns a copy of the batch on a device; ``index`` stays on the host."""

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: moved(item) for key, item in value.items()}
            return value.to(device) if isinstance(value, Tensor | Head | Features) else value

        values = {f.name: moved(getattr(self, f.name)) for f in fields(self) if f.name != "index"}
        return replace(self, **values)

    def detach(self) -> Features:
        """Returns a copy that is detached from the autograd graph."""
        maps = {tap: value.detach() for tap, value in self.maps.items()}
        attention = None if self.attention is None else self.attention.detach()
        return replace(self, logits=self.logits.detach(), pooled=self.pooled.detach(), maps=maps, attention=attention)


def _select(value: Any, rows: Tensor | slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows if isinstance(rows, slice) else beside(rows, value)]
    if isinstance(value, Features):
        return value.select(rows)
    if isinstance(value, Mapping):
        return {key: _select(item, rows) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class Reads:
    """The fields of a batch that detectors read besides logits and penultimate feature. ``a | b`` is their union.

    Attributes:
        taps: names of maps.
        gradients: taps for which the gradient of KL(uniform || softmax) is read too.
        attention: whether the class token's attention is read.
        views: transforms of the training images.
        perturbations: steps of the images along a gradient; those of test images may depend on the fit.
        head: whether the weights of a linear classifier are read.
        val_ood: whether the fit reads validation OOD images.
    """

    taps: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    attention: bool = False
    views: tuple[View, ...] = ()
    perturbations: tuple[Perturbation, ...] = ()
    head: bool = False
    val_ood: bool = False

    def __or__(self, other: Reads) -> Reads:
        both: dict[str, Any] = {}
        for entry in fields(self):
            ours, theirs = getattr(self, entry.name), getattr(other, entry.name)
            both[entry.name] = tuple(dict.fromkeys(ours + theirs)) if isinstance(ours, tuple) else ours or theirs
        return Reads(**both)

    @classmethod
    def union(cls, all_reads: Iterable[Reads]) -> Reads:
        """Returns the union of several ``Reads``."""
        total = cls()
        for reads in all_reads:
            total |= reads
        return total


@dataclass(frozen=True)
class NetworkInfo:
    """Description of the network and of the fit set, available before the first batch.

    Attributes:
        num_features: D, length of the penultimate feature.
        num_classes: K, number of logits.
        head: the classifier; None where it is not linear.
        maps: every available tap -> shape ``[C, ...]`` of one image's map.
        blocks: the taps that are the network's own blocks, in order of execution; the last is the map before pooling.
        attention: ``(heads, tokens)`` of the class-token attention, or None where there is no class token.
        labels: ``[N]`` int64 labels of the whole fit set, on every process, or None where unknown.
        mean: per-channel mean that the preprocessing subtracts from an image in [0, 1].
        std: per-channel standard deviation that it divides by.
        scope: the statistics that detectors of one suite share, see ``lightning_ood.statistics.share``; None where
            each detector has its own.
        splits: how often the training images were split, and a part of them held out, before a detector sees them.
    """

    num_features: int
    num_classes: int
    head: Head | None = None
    maps: Mapping[str, torch.Size] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    attention: tuple[int, int] | None = None
    labels: Tensor | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scope: dict[Hashable, Any] | None = None
    splits: int = 0

    def sharing(self) -> NetworkInfo:
        """Returns a copy with a new scope, in which detectors that see the same batches share their statistics.

        A detector that passes other images to its children than it receives gives them such a scope.
        """
        return replace(self, scope={})

    def holding_out(self) -> NetworkInfo:
        """Returns a copy with a new scope for detectors that are fitted on the images that a split leaves."""
        return replace(self.sharing(), splits=self.splits + 1)
