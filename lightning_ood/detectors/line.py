"""LINe: OOD Detection by Leveraging Important Neurons. Ahn, Park, Kim. CVPR 2023. https://arxiv.org/abs/2303.13995."""

from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.doubts import Seen, class_doubts, clip_doubts
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.ranges import check_number, check_percentile
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.quantiles import percentile, percentile_curves
from lightning_ood.statistics import share
from lightning_ood.statistics.quantile import QuantileSketch, quantile

CACHED = 2**18  # weights that are pruned at once on a CPU: 1 MB fits its cache
LAUNCHED = 2**24  # weights that are pruned at once on a GPU: 64 MB, for few kernel launches


class LINe(Shaping):
    """Clips the feature (AC), then keeps the units (AP) and weights (WP) that matter most to the predicted class.

    The contribution of unit i to class c is the class mean of ``z_i * d f_c / d z_i``. For a linear head it is
    ``M[c, i] = W[c, i] * mean_i(z | label c)`` and needs no backward pass. To score z:

    - AC: ``z <- min(z, delta)``; c is the class that the unpruned head predicts for the clipped z.
    - AP: unit i stays if ``M[c, i]`` (signed) is above the p_a-th percentile of the D entries of ``M[c]``.
    - WP: weight (k, i), for any class k, stays if ``|M[c, i]| * W[k, i]`` is above the p_w-th percentile of these K*D
      products.
    - ``f_k = b_k + sum_i z_i W[k, i]`` over the units and weights that stay; the base scores f.

    Fits on all training images, with labels. State: (D + 1) K numbers (16.4 MB at K = 1000, D = 2048), and 8 MiB more
    with ``clip_percentile``; fitted: ``contributions`` ``[K, D]``, a threshold of units and one of weights per class,
    ``clip``. The pruned weights ``[K, D]`` of an image's class are computed during scoring, for a few images at a time,
    and never stored for all classes. At K = 1000, D = 2048 that costs 2 ms per image on one CPU core and 40 MB; an ODIN
    base with a perturbation keeps 8 MB per image of the batch. The thresholds take 23 s there, once.

    As in the authors' code, contributions use unclipped features, c is the class predicted from the clipped ones, and
    AP compares signed contributions. Deviation: for a class without training images, whose contributions are
    undefined, nothing is pruned.

    Args:
        weight_percentile: p_w; None switches WP off. CIFAR 90, ImageNet 10.
        activation_percentile: p_a; None switches AP off. CIFAR-10 90, CIFAR-100 and ImageNet 10.
        threshold: delta, in units of the feature; None switches AC off. 1.0 is for the CIFAR DenseNet, 0.8 for the
            ImageNet ResNet-50; other networks need another value.
        clip_percentile: percentile of all entries of the training features that gives delta, in place of
            ``threshold``.
        base: the score of the new logits; Energy where None.
    """

    labels = True

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
        check_percentile("weight_percentile", weight_percentile)
        check_percentile("activation_percentile", activation_percentile)
        check_percentile("clip_percentile", clip_percentile)
        check_number("threshold", threshold)
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
        """Adds the penultimate features of a batch to the sums of their classes."""
        labels = labels_of(features)
        self.sums = self.sums.index_add(0, labels, features.pooled.double())
        self.images = self.images.index_add(0, labels, torch.ones_like(labels))
        if self.clip_percentile is not None:
            self.entries.update(features.pooled)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``contributions`` ``[K, D]``, ``unit_thresholds`` and ``weight_thresholds`` ``[K]``, ``clip``."""
        self._require_images(self.images)
        assert self.head is not None
        weight = self.head.weight.to(self.sums.device)
        contributions = (weight * (self.sums / self.images.clamp_min(1)[:, None])).to(weight.dtype)  # [K, D]
        units = torch.full_like(self.images, -torch.inf, dtype=weight.dtype)  # [K]; -inf prunes nothing
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
        """Computes the logits ``[B, K]`` from the units and weights that stay for each image's predicted class."""
        assert features.head is not None
        weight, bias = features.head.weight, features.head.bias
        contributions, units, weights = (
            fitted[key] for key in ("contributions", "unit_thresholds", "weight_thresholds")
        )
        clipped = features.pooled.clamp(max=fitted["clip"])  # [B, D]
        predicted = features.head(clipped).argmax(dim=1)  # [B]
        pruned = clipped * (contributions > units[:, None])[predicted]  # [B, D]
        size, threshold = contributions.abs(), weights[:, None, None]  # [K, D], [K, 1, 1]
        out = torch.empty_like(features.logits, dtype=pruned.dtype)
        step = max(1, (CACHED if weight.device.type == "cpu" else LAUNCHED) // weight.numel())
        whole = torch.compiler.is_compiling()  # an exported graph takes any number of images, and has no loop
        starts = range(0, len(pruned), step) if not whole else (0,)
        for rows in [slice(None) if whole else slice(first, first + step) for first in starts]:
            # [step, 1, D] * [K, D] -> [step, K, D]; in place from here on, since allocation is expensive.
            kept = size[predicted[rows], None] * weight
            kept = kept.gt_(threshold[predicted[rows]]).mul_(weight)
            out[rows] = (kept @ pruned[rows, :, None]).squeeze(2)  # [step, K, 1] -> [step, K]
        return out + bias

    def summary(self, fitted: Fitted) -> dict[str, Any]:
        """Returns the clipping threshold and percentiles over classes of the sorted contributions of their units."""
        contributions = fitted["contributions"].sort(dim=1, descending=True).values
        return {"clip": float(fitted["clip"]), "contributions": percentile_curves(contributions)}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a given threshold of another network, percentiles that are all zero, and classes without images."""
        found = super().doubts(fitted, seen)
        if self.clip_percentile is None:
            found += clip_doubts(float(fitted["clip"]), seen)
        for key in ("unit_thresholds", "weight_thresholds"):
            known = fitted[key][fitted[key].isfinite()]
            if len(known) and not known.any():
                found.append(
                    f"its {key.replace('_', ' ')} are 0 in all classes: the percentile falls among entries that are "
                    "exactly zero or of both signs, and prunes by sign alone; write a higher percentile"
                )
        what = "have no training image: nothing is pruned for images that are predicted as one"
        return found + (class_doubts(seen.labelled, what) if seen.labelled is not None else [])

    def _clip(self) -> Tensor:
        if self.clip_percentile is not None:
            return quantile(self.entries.compute(), self.clip_percentile / 100).to(torch.float32)
        delta = torch.inf if self.threshold is None else self.threshold
        return torch.tensor(delta, dtype=torch.float32, device=self.sums.device)
