"""Watches a fit pass for doubts: counts its images, and keeps the features of a few of them and of their jigsaws."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.calibration import FeatureSample
from lightning_ood.detectors.doubts import Seen
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.statistics import Statistic
from lightning_ood.views import Jigsaw

LARGEST = 256  # images in the sample
NUMBERS = 2**24  # that a sample may hold: 64 MB
WIDEST = 2**18  # numbers per image that a detector may read to be watched


class Counts(Statistic):
    """Number of training images, and of those with each label. State: K + 1 int64.

    Args:
        classes: K.
    """

    images: Tensor
    labelled: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("labelled", torch.zeros(classes, dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Counts a batch."""
        self.images = self.images + len(features)
        if features.labels is not None:
            self.labelled = self.labelled.index_add(0, features.labels, torch.ones_like(features.labels))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns the number of images and that of each label ``[K]`` over all processes."""
        return self.images, self.labelled.reshape(-1)


class Witness(nn.Module):
    """Watches a fit pass: what it collects is what detectors may doubt.

    It asks for no forward and no view of its own: the jigsaws are those that a detector of the run fits on. A detector
    that reads more than the pass computes anyway, or more than ``WIDEST`` numbers per image, is not scored.

    Args:
        detectors: after their ``setup``. They are not registered as children.
        reads: the fields that the pass computes.
        info: of the network.
    """

    def __init__(self, detectors: Sequence[Detector], reads: Reads, info: NetworkInfo) -> None:
        super().__init__()
        self.network = info
        self.counts = Counts(info.num_classes)
        watched = [detector for detector in detectors if _numbers(detector.reads, info) <= WIDEST]
        watched = [detector for detector in watched if _computed(detector.reads, reads)]
        numbers = info.num_classes + info.num_features + _numbers(Reads.union(one.reads for one in watched), info)
        size = min(LARGEST, max(NUMBERS // numbers, 1))
        self.jigsaw = next((view for view in reads.views if isinstance(view, Jigsaw)), None)
        self.images = FeatureSample(size, info, watched)
        self.jigsaws = FeatureSample(size, info, watched) if self.jigsaw is not None else None

    def update(self, features: Features) -> None:
        """Watches a batch of training images."""
        self.counts.update(features)
        if features.index is None or len(features) == 0:
            return
        self.images.update(features)
        if self.jigsaws is not None and self.jigsaw in features.views:
            self.jigsaws.update(features.views[self.jigsaw])

    def compute(self) -> Seen:
        """Returns what was seen over all processes, on the host."""
        images, labelled = self.counts.compute()
        sample = self.images.compute(self.network).to("cpu")
        jigsaws = self.jigsaws.compute(self.network).to("cpu") if self.jigsaws is not None else None
        return Seen(
            images=int(images),
            width=self.network.num_features,
            labelled=labelled.cpu() if labelled.any() else None,
            sample=sample if len(sample) else None,
            jigsaws=jigsaws,
        )

    def reset(self) -> None:
        """Forgets everything."""
        for module in self.modules():
            if isinstance(module, Statistic):
                module.reset()


def _numbers(reads: Reads, info: NetworkInfo) -> int:
    attention = info.attention if reads.attention and info.attention is not None else (0,)
    return sum(prod(info.maps[tap]) for tap in (*reads.taps, *reads.gradients) if tap in info.maps) + prod(attention)


def _computed(wanted: Reads, reads: Reads) -> bool:
    maps = set(wanted.taps) <= set(reads.taps) and set(wanted.gradients) <= set(reads.gradients)
    return maps and (reads.attention or not wanted.attention)
