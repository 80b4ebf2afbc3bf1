"""LINe: OOD Detection by Leveraging Important Neurons. Ahn, Park, Kim. CVPR 2023. https://arxiv.org/abs/2303.13995."""

from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.quantiles import percentile, spread
from lightning_ood.statistics import share
from lightning_ood.statistics.quantile import QuantileSketch, quantile

CACHED = 2**18  # weights that are pruned at once on a CPU: 1 MB stays in its cache
LAUNCHED = 2**24  # elsewhere: 64 MB keep the launches few


class LINe(Shaping):
    """Clips the feature (AC), then keeps the units (AP) and weights (WP) that matter to the predicted class.

    The contribution of unit i to class c is the class mean of ``z_i * d f_c / d z_i``, for a linear head
    ``M[c, i] = W[c, i] * mean_i(z | label c)``: no gradient is taken. To score z:

    - AC: ``z <- min(z, delta)``; c = the class that the whole head then predicts.
    - AP: unit i stays where ``M[c, i]`` (signed) is above the p_a-th percentile of its D entries.
    - WP: weight (k, i), k any class, stays where ``|M[c, i]| * W[k, i]`` is above the p_w-th percentile of its K*D.
    - ``f_k = sum_i z_i W[k, i]`` over what stays, ``+ b_k``, scored by the base.

    Fits on all training images, with labels. State: (D + 1) K numbers (16.4 MB at K = 1000, D = 2048), with
    ``clip_percentile`` 8 MiB more; fitted: ``contributions`` ``[K, D]``, a threshold of units and one of weights per
    class, ``clip``. The K x D weights of an image's class are made when it is scored, a few images at a time and never
    those of all classes: at that size 2 ms an image on one CPU core and 40 MB (an ODIN base that takes a step keeps
    8 MB for each image of the batch); the thresholds take 23 s there, once.

    As in the authors' code: contributions use unclipped features, the class is that of the clipped ones, and the sign
    counts in AP. Deviation: a class without training images prunes nothing (its contributions are unknown).

    Args:
        weight_percentile: p_w; None switches WP off. CIFAR 90, ImageNet 10.
        activation_percentile: p_a; None switches AP off. CIFAR-10 90, CIFAR-100 and ImageNet 10.
        threshold: delta, in units of the feature; None switches AC off. CIFAR DenseNet 1.0, ImageNet ResNet-50 0.8: it
            belongs to those networks.
        clip_percentile: finds delta as this percentile of all entries of the training features; ``threshold`` is then
            not used.
        base: the score of the new logits; Energy where None.
    """

    sums: Tensor
    images: Tensor

    def __init__(
        self,
        weight_percentile: float | None = 90.0,
        activation_percentile: float | None = 90.0,
        threshold: float | None = 1.0,
        clip_percentile: float | None = None,
        base: LogitScore | None = None,
    ) -> None:
        super().__init__(base)
        self.weight_percentile, self.activation_percentile = weight_percentile, activation_percentile
        self.threshold, self.clip_percentile = threshold, clip_percentile

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums of the features per class."""
        super().setup(info)
        self.add_state("sums", torch.zeros(info.num_classes, info.num_features, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros(info.num_classes, dtype=torch.int64), "sum")
        if self.clip_percentile is not None:
            self.entries = share(info, QuantileSketch)

    def update(self, features: Features) -> None:
        """Sums the penultimate features per class."""
        labels = labels_of(features)
        self.sums = self.sums.index_add(0, labels, features.pooled.double())
        self.images = self.images.index_add(0, labels, torch.ones_like(labels))
        if self.clip_percentile is not None:
            self.entries.update(features.pooled)

    def compute(self) -> dict[str, Tensor]:
        """``contributions`` ``[K, D]``, ``unit_thresholds`` and ``weight_thresholds`` ``[K]``, ``clip``."""
        self._require_images(self.images)
        assert self.head is not None
        weight = self.head.weight.to(self.sums.device)
        contributions = (weight * (self.sums / self.images.clamp_min(1)[:, None])).to(weight.dtype)
        units = torch.full_like(self.images, -torch.inf, dtype=weight.dtype)
        weights = units.clone()
        for c in self.images.nonzero().flatten().tolist():
            if self.activation_percentile is not None:
                units[c] = percentile(contributions[c], self.activation_percentile)
            if self.weight_percentile is not None:
                weights[c] = percentile(contributions[c].abs() * weight, self.weight_percentile)
        return {
            "contributions": contributions,
            "unit_thresholds": units,
            "weight_thresholds": weights,
            "clip": self._clip(),
        }

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Logits of what stays for each image's class, ``[B, K]``."""
        assert features.head is not None
        weight, bias = features.head.weight, features.head.bias
        contributions, units, weights = (
            fitted[key] for key in ("contributions", "unit_thresholds", "weight_thresholds")
        )
        clipped = features.pooled.clamp(max=fitted["clip"])
        predicted = features.head(clipped).argmax(dim=1)
        pruned = clipped * (contributions > units[:, None])[predicted]
        size, threshold = contributions.abs(), weights[:, None, None]
        out = torch.empty_like(features.logits, dtype=pruned.dtype)
        step = max(1, (CACHED if weight.device.type == "cpu" else LAUNCHED) // weight.numel())
        for first in range(0, len(pruned), step):
            rows = slice(first, first + step)
            kept = size[predicted[rows], None] * weight  # [step, K, D], in place from here on: fresh memory is dear
            kept = kept.gt_(threshold[predicted[rows]]).mul_(weight)
            out[rows] = (kept @ pruned[rows, :, None]).squeeze(2)
        return out + bias

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """The clipping threshold, and the contributions of a class's units, sorted: their spread over the classes."""
        contributions = fitted["contributions"].sort(dim=1, descending=True).values
        return {"clip": float(fitted["clip"]), "contributions": spread(contributions)}

    def _clip(self) -> Tensor:
        if self.clip_percentile is not None:
            return quantile(self.entries.compute(), self.clip_percentile / 100).to(torch.float32)
        delta = torch.inf if self.threshold is None else self.threshold
        return torch.tensor(delta, dtype=torch.float32, device=self.sums.device)
