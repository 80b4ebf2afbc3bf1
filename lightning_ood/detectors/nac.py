"""Neuron Activation Coverage (NAC-UE). Liu, Tian, Li, Ma, Wang. ICLR 2024. https://arxiv.org/abs/2306.02879."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.doubts import Seen
from lightning_ood.detectors.ranges import check_at_least, check_positive
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.quantiles import percentile_curves
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.coverage import Scheme, StateCounts, bin_edges, bin_index, covered, layer_score
from lightning_ood.statistics.sample import Sample

POOLED = "pooled"
CHECKED = 1000  # largest number of training images in the subset, and out of it, whose scores are stored
Pool = Literal["sum", "mean"]


@dataclass
class NACLayer:
    """Settings of one layer.

    Attributes:
        samples: O, the number of training images at which a bin is fully covered. May exceed the number of images.
        bins: M; there are M - 1 bins.
        alpha: steepness of the sigmoid, per unit of activation times gradient.
    """

    samples: int = 50
    bins: int = 50
    alpha: float = 3000.0

    def __post_init__(self) -> None:
        check_at_least("samples", self.samples, 1)
        check_positive("alpha", self.alpha)


class NAC(Detector):
    """Mean coverage of the states of an image's neurons: how common each state is among training images.

    The state of neuron i is ``sigmoid(alpha * z_i * g_i)`` (eq. 2), with g the gradient of KL(uniform || softmax) by
    the layer. For a map, z and g are each summed over positions (tokens, the class token included) and then multiplied.
    A histogram per neuron counts the training images; a bin with ``count`` images has the weight
    ``min(count / O, 1)``. The score is the mean of the weights of the bins that the image's states fall in, over
    neurons and then over layers (eq. 6), in [0, 1].

    The layer ``pooled`` is the penultimate feature, whose gradient ``W^T (softmax - 1/K)`` needs no backward pass. For
    a Transformer that classifies by its class token, it is that token after the last norm (the paper's
    ``encoder.ln``). Other layers are maps and share one backward pass per batch.

    Fits on training images, all or a class-balanced subset, whether classified correctly or not; labels are used only
    for balance. Fitted: ``counts.<layer>``, N * (M - 1) int64, and the scores of up to 1000 training images in the
    subset and up to 1000 outside it (``training_scores.inside``, ``.outside``). If these scores are far above those of
    ID test images, the coverage has memorised the training images. State: the counts and, for each of those images, its
    bins (int32).

    Follows the authors' code where it differs from the paper: bins are dense around 0.5 (``scheme``), positions are
    summed (``pool``; the published alphas are for sums), and layers have equal weights. Deviations: edges and the
    sigmoid are float64 (float32 moves about one state in a million to another bin, on sparse features up to 380), and
    the subset is drawn by a hash of seed and index.

    Args:
        layers: ``pooled`` or a tap -> settings; ``pooled`` alone where None. The published settings are in
            configs/detectors/nac_*.yaml.
        images: size of the subset (1000 in the paper, 50 000 for ImageNet ViT); a class with too few images gives all.
            All training images where None.
        seed: seed of the subset.
        scheme: ``log`` or ``uniform`` bins.
        pool: ``sum`` or ``mean`` over positions. With H*W positions, ``mean`` needs an alpha (H*W)^2 times as large.
    """

    def __init__(
        self,
        layers: dict[str, NACLayer] | None = None,
        images: int | None = None,
        seed: int = 0,
        scheme: Scheme = "log",
        pool: Pool = "sum",
    ) -> None:
        super().__init__()
        self.layers = {POOLED: NACLayer()} if layers is None else dict(layers)
        if not self.layers:
            raise InputError("NAC needs at least one layer, for example layers: {pooled: {}}")
        check_at_least("images", 1 if images is None else images, 1)
        self.images, self.seed, self.scheme, self.pool = images, seed, scheme, pool
        self.edges = {name: bin_edges(layer.bins, scheme) for name, layer in self.layers.items()}
        self.taps = self.gradients = tuple(name for name in self.layers if name != POOLED)
        self.linear_head = POOLED in self.layers
        self.labels = images is not None  # to balance the subset

    def setup(self, info: NetworkInfo) -> None:
        """Declares a histogram per layer and draws the subset."""
        super().setup(info)
        widths = {name: info.num_features if name == POOLED else info.maps[name][0] for name in self.layers}
        self.histograms = nn.ModuleList(
            StateCounts(widths[name], layer.bins - 1) for name, layer in self.layers.items()
        )
        self.widths = list(widths.values())
        self.inside = Sample(CHECKED, sum(self.widths), self.seed, torch.int32)
        self.outside = Sample(CHECKED, sum(self.widths), self.seed, torch.int32)
        self.chosen: Tensor | None = None
        if self.images is not None and info.labels is not None:  # there are no labels when it only scores
            self.chosen = balanced_subset(info.labels.cpu(), self.images, self.seed)

    def update(self, features: Features) -> None:
        """Counts the states of a batch.

        Raises:
            InputError: if ``images`` is set and the training set has no labels to balance the subset by.
        """
        bins = torch.cat([self.bins(features, name) for name in self.layers], dim=1)  # [B, neurons of all layers]
        index = features.index
        if self.images is not None:
            index = index_of(features)
            chosen = self._chosen()[index]  # [B], on the host
            others, inside = (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
            self.outside.update(bins[beside(others, bins)], index[others])
            bins, index = bins[beside(inside, bins)], index[inside]
        for histogram, of_layer in zip(self._histograms(), bins.split(self.widths, dim=1), strict=True):
            histogram.update(of_layer)
        if index is not None:
            self.inside.update(bins, index)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``counts.<layer>`` ``[N, M - 1]`` int64, ``training_scores.inside`` and ``.outside`` ``[n]``."""
        counts = [histogram.compute() for histogram in self._histograms()]
        self._require_images(torch.stack([c.sum() for c in counts]))
        fitted = {f"counts.{name}": c for name, c in zip(self.layers, counts, strict=True)}
        for which, sample in (("inside", self.inside), ("outside", self.outside)):
            rows = sample.compute().reshape(-1, sum(self.widths))  # [n, neurons of all layers]
            if len(rows):
                fitted[f"training_scores.{which}"] = self._score(list(rows.long().split(self.widths, dim=1)), fitted)
        return fitted

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: the mean over layers ``[B]``, in [0, 1]."""
        return self._score([self.bins(features, name) for name in self.layers], fitted)

    def bins(self, features: Features, layer: str) -> Tensor:
        """Returns the bin of each state of a layer, ``[B, N]`` int64."""
        return bin_index(self.states(features, layer), self.edges[layer])

    def states(self, features: Features, layer: str) -> Tensor:
        """Computes the states of a layer's neurons, ``[B, N]`` float64 in [0, 1]."""
        return neuron_states(features, layer, self.layers[layer].alpha, self.pool)

    def _score(self, bins: list[Tensor], fitted: Fitted) -> Tensor:
        scores = []  # [B] of each layer
        for (name, layer), index in zip(self.layers.items(), bins, strict=True):
            counts = fitted[f"counts.{name}"]
            scores.append(layer_score(index, counts, layer.samples))
        return torch.stack(scores).mean(dim=0)

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """Returns the number of counted images and, per layer, percentiles over neurons of each bin's weight."""
        counts = {name: fitted[f"counts.{name}"] for name in self.layers}
        summary: dict[str, Any] = {"images": float(next(iter(counts.values()))[0].sum())}
        for name, layer in self.layers.items():
            summary[f"coverage.{name}"] = percentile_curves(covered(counts[name], layer.samples), self.edges[name])
        return summary

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts layers whose O is above the number of images."""
        images = seen.images if self.images is None else min(self.images, seen.images)
        found = [
            f"{name}: its samples={layer.samples} is above the {images} images that it counts, so that no bin can be "
            f"fully covered and the score is a mean of counts; fit on more images, or write samples below {images}"
            for name, layer in self.layers.items()
            if layer.samples > images
        ]
        return [*super().doubts(fitted, seen), *found]

    def _chosen(self) -> Tensor:
        """Returns the mask of the training images in the subset, on the host."""
        if self.chosen is None:
            raise InputError(
                "NAC balances its `images` over the classes, and the training set has no labels; write images: null"
            )
        return self.chosen

    def _histograms(self) -> Iterator[StateCounts]:
        for histogram in self.histograms:
            assert isinstance(histogram, StateCounts)
            yield histogram


def neuron_states(features: Features, layer: str, alpha: float, pool: Pool = "sum") -> Tensor:
    """Computes ``sigmoid(alpha * z * g)``, z the activation and g the gradient of KL(uniform || softmax) by it.

    Args:
        features: B images; for a tap, with its map and gradient.
        layer: ``pooled``, whose gradient has a closed form, or a tap.
        alpha: steepness.
        pool: reduction of a map and of its gradient over positions.

    Returns:
        ``[B, N]`` float64 in [0, 1].
    """
    if layer == POOLED:
        if features.head is None:
            raise InputError(
                "the layer `pooled` needs the weights of a linear classifier, and this network has none; name a tap"
            )
        activation = features.pooled  # [B, D]
        gradient = (features.probs - 1 / features.logits.shape[1]) @ features.head.weight  # [B, K] @ [K, D]
    else:
        both = features.maps[layer].float().flatten(2), features.gradients[layer].float().flatten(2)  # [B, C, N]
        activation, gradient = (t.sum(dim=2) if pool == "sum" else t.mean(dim=2) for t in both)  # [B, C]
    return (alpha * activation.double() * gradient.double()).sigmoid()


def balanced_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Draws the same number of images from each class: those with the smallest hash within it.

    Args:
        labels: ``[N]`` int64, of the whole set.
        size: size of the subset; the remainder of its division by the number of classes goes to the lowest labels.
        seed: seed of the subset.

    Returns:
        mask ``[N]``; fewer than ``size`` entries are true if a class has too few images.
    """
    order = hash_index(torch.arange(len(labels), device=labels.device), seed).argsort()
    order = order[labels[order].argsort(stable=True)]  # by class, then by hash
    ordered = labels[order]
    classes, counts = labels.unique(return_counts=True)
    which = torch.searchsorted(classes, ordered)  # [N], index of the class
    rank = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[which]  # [N], within the class
    quota = size // len(classes) + (which < size % len(classes)).long()  # [N], of the image's class
    chosen = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    chosen[order[rank < quota]] = True
    return chosen
