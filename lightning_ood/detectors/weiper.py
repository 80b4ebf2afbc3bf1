"""WeiPer: OOD Detection using Weight Perturbations of Class Projections. Granz, Heurich, Landgraf. NeurIPS 2024.

https://arxiv.org/abs/2405.17164
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.ranges import check_at_least, check_number, check_positive
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.quantile import QuantileSketch, edges

_HELD = 2**26  # numbers of noise that are kept in memory; beyond, they are drawn again for each batch
_AT_ONCE = 2**22  # numbers of perturbed weights that are multiplied at once


class WeiPer(Detector):
    """WeiPer+KLD: how an image's units, and its logits under perturbed weights, spread over their range (eq. 10).

    The classifier is perturbed ``repeats`` times: ``w~_k = w_k + delta |w_k| e / |e|``, e normal. q is the histogram of
    an image's units over the range of the training features, smoothed by a moving mean, p that of all training images;
    q~ and p~ are those of the ``repeats * K`` perturbed logits. With ``D(p, q) = KL(p || q) + KL(q || p)`` and msp the
    largest probability, averaged over the perturbations, the score is ``-D(p, q) - weight D(p~, q~) + msp_weight msp``.

    Fits on all training images, without labels: the histograms of all entries, since every image has the same number
    of entries. State: 2 sketches (16 MiB); fitted: ``feature_density`` and ``logit_density`` ``[bins]``, and their
    ranges. Fit and score cost ``repeats`` times the classifier; its noise comes from ``seed``.

    Deviations: none in the formula. Histograms are read off a sketch whose bins are 0.05 % wide, which needs no
    earlier pass for the range. The default numbers are those of the authors' code; they search them per network.

    Args:
        repeats: number of perturbations, r.
        delta: length of the noise, relative to that of the weights of a class.
        bins: number of bins of a histogram.
        smoothing: width of the moving mean of an image's units, s1.
        logit_smoothing: width of that of its perturbed logits, s2.
        weight: of the perturbed logits, lambda1.
        msp_weight: of the probability, lambda2.
        eps: added to the bins of the units.
        logit_eps: added to the bins of the perturbed logits.
        seed: seed of the noise.

    Raises:
        InputError: if a number is out of range.
    """

    linear_head = True
    positive = False
    score_only = ("smoothing", "logit_smoothing", "weight", "msp_weight", "eps", "logit_eps")

    def __init__(
        self,
        repeats: int = 100,
        delta: float = 2.1,
        bins: int = 100,
        smoothing: int = 20,
        logit_smoothing: int = 20,
        weight: float = 1.0,
        msp_weight: float = 1.0,
        eps: float = 0.01,
        logit_eps: float = 0.025,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (("repeats", repeats), ("smoothing", smoothing), ("logit_smoothing", logit_smoothing)):
            check_at_least(name, count, 1)
        check_at_least("bins", bins, 2)
        check_at_least("delta", delta, 0)
        for name, value in (("weight", weight), ("msp_weight", msp_weight)):
            check_number(name, value)
        for name, value in (("eps", eps), ("logit_eps", logit_eps)):
            check_positive(name, value)
        if max(smoothing, logit_smoothing) > bins:
            raise InputError(f"a moving mean over {max(smoothing, logit_smoothing)} of {bins} bins: write at most bins")
        self.repeats, self.delta, self.bins, self.seed = repeats, delta, bins, seed
        self.smoothing, self.logit_smoothing = smoothing, logit_smoothing
        self.weight, self.msp_weight, self.eps, self.logit_eps = weight, msp_weight, eps, logit_eps

    def setup(self, info: NetworkInfo) -> None:
        """Makes the sketches, and draws the noise if it is small."""
        super().setup(info)
        self.shape = (info.num_classes, info.num_features)
        weights = info.num_classes * info.num_features
        size = max(_AT_ONCE // weights, 1)
        self.parts = [range(start, min(start + size, self.repeats)) for start in range(0, self.repeats, size)]
        self.noise = [self._draw(part) for part in self.parts] if self.repeats * weights <= _HELD else None
        self.units, self.perturbed = QuantileSketch(), QuantileSketch()

    def update(self, features: Features) -> None:
        """Adds the units and perturbed logits of a batch to the histograms."""
        self.units.update(features.pooled)
        for i in range(len(self.parts)):
            self.perturbed.update(self._logits(features, i))

    def compute(self) -> dict[str, Tensor]:
        """Computes densities ``[bins]`` and ranges ``[2]`` of units and perturbed logits."""
        fitted: dict[str, Tensor] = {}
        for name, sketch in (("feature", self.units), ("logit", self.perturbed)):
            counts = sketch.compute()
            self._require_images(counts)
            filled = counts.nonzero().flatten()
            low, high = edges(filled)  # [F]
            span = torch.stack([low[0], high[-1]])
            index = bin_of((low + high) / 2, span, self.bins)
            density = torch.zeros(self.bins + 2, dtype=torch.float64, device=counts.device)
            density = density.index_add(0, index, counts[filled].double())[1:-1]
            fitted |= {f"{name}_density": (density / density.sum()).float(), f"{name}_range": span.float()}
        return fitted

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, any sign."""
        q = histogram(features.pooled, fitted["feature_range"], self.bins) / features.pooled.shape[1]
        counts, msp = torch.zeros_like(q), torch.zeros_like(q[:, 0])
        for i in range(len(self.parts)):
            logits = self._logits(features, i)  # [B, repeats of the part, K]
            counts = counts + histogram(logits.flatten(1), fitted["logit_range"], self.bins)
            msp = msp + logits.softmax(2).amax(2).sum(1)
        q_logits = counts / (self.repeats * features.logits.shape[1])
        score = -divergence(fitted["feature_density"], q, self.smoothing, self.eps)
        score = score - self.weight * divergence(
            fitted["logit_density"], q_logits, self.logit_smoothing, self.logit_eps
        )
        return score + self.msp_weight * msp / self.repeats

    def _logits(self, features: Features, i: int) -> Tensor:
        """Computes the logits ``[B, R, K]`` under the R perturbations of the i-th part."""
        assert features.head is not None
        weight = features.head.weight
        noise = beside(self.noise[i] if self.noise is not None else self._draw(self.parts[i]), weight)  # [R, K, D]
        length = self.delta * weight.norm(dim=1, keepdim=True)  # [K, 1]
        perturbed = (weight + length * noise).flatten(0, 1)  # [R * K, D]
        return (features.pooled @ perturbed.T).unflatten(1, noise.shape[:2]) + features.head.bias

    def _draw(self, part: range) -> Tensor:
        """Draws directions ``[R, K, D]`` of unit length, those of each perturbation from a seed of its own."""
        draws = [torch.Generator().manual_seed((self.seed << 20) + i) for i in part]
        return F.normalize(torch.stack([torch.randn(self.shape, generator=draw) for draw in draws]), dim=2)


def bin_of(values: Tensor, span: Tensor, bins: int) -> Tensor:
    """Returns the bin of each of ``values``: 1 to ``bins`` over ``span`` ``[2]``; 0 and ``bins + 1`` are outside."""
    width = ((span[1] - span[0]) / bins).clamp(min=1e-12)
    return (((values - span[0]) / width).floor() + 1).clamp(0, bins + 1).long()


def histogram(values: Tensor, span: Tensor, bins: int) -> Tensor:
    """Counts values ``[B, N]`` over the range ``span`` ``[2]``: ``[B, bins]``; those outside are not counted."""
    index = bin_of(values, span, bins)
    counts = torch.zeros(len(values), bins + 2, dtype=values.dtype, device=values.device)
    return counts.scatter_add(1, index, torch.ones_like(values))[:, 1:-1]


def divergence(p: Tensor, q: Tensor, smoothing: int, eps: float) -> Tensor:
    """Computes ``KL(p || q) + KL(q || p)`` ``[B]`` of a density ``[bins]`` and smoothed densities ``[B, bins]``."""
    left = (smoothing - 1) // 2
    padded = F.pad(q[:, None], (left, smoothing - 1 - left), mode="replicate")  # [B, 1, bins + smoothing - 1]
    q = F.avg_pool1d(padded, smoothing, stride=1).squeeze(1) + eps
    p, q = (p + eps) / (p + eps).sum(), q / q.sum(1, keepdim=True)
    return ((p - q) * (p.log() - q.log())).sum(1)
