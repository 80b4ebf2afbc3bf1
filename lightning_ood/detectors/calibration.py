"""A bounded sample of images that detectors are scored on once they are fitted: no second pass, no further forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.ops.hashing import hash_index
from lightning_ood.statistics.sample import Sample

Scoring = Callable[[Detector, Features, Fitted], Tensor]


def plain_score(detector: Detector, features: Features, fitted: Fitted) -> Tensor:
    """The score of a detector."""
    return detector.score(features, fitted)


class FeatureSample(nn.Module):
    """The features that given detectors read, of the ``size`` images that hash lowest.

    The parts (logits, penultimate feature, the detectors' maps, gradients and attention) are samples drawn with one
    seed, so they hold the same images in the same order, whatever the batches and processes were. State: per image
    ``K + D`` numbers and those of the maps: 90 KB for the last map of a CIFAR DenseNet, 400 KB for a ResNet-50's.

    Args:
        size: images kept at most.
        info: of the network; where the fit set is known, no more images are kept room for than it has.
        detectors: those that will read the sample, after their own ``setup``.
        seed: draws other images.
    """

    def __init__(self, size: int, info: NetworkInfo, detectors: Sequence[Detector], seed: int = 0) -> None:
        super().__init__()
        reads = Reads.union(detector.reads for detector in detectors)
        shapes: dict[tuple[str, str], Sequence[int]] = {
            ("logits", ""): (info.num_classes,),
            ("pooled", ""): (info.num_features,),
            **{("maps", tap): info.maps[tap] for tap in reads.taps},
            **{("gradients", tap): info.maps[tap] for tap in reads.gradients},
        }
        if reads.attention and info.attention is not None:
            shapes["attention", ""] = info.attention
        self.shapes = shapes
        size = bounded(size, info)
        self.samples = nn.ModuleList(Sample(size, prod(shape), seed) for shape in shapes.values())

    def update(self, features: Features) -> None:
        """Offers a batch."""
        for (kind, tap), sample in zip(self.shapes, self.samples, strict=True):
            value = getattr(features, kind)
            sample.update((value[tap] if tap else value).flatten(1), index_of(features))  # type: ignore[operator]

    def compute(self, info: NetworkInfo) -> Features:
        """The sampled images over all processes."""
        values: dict[tuple[str, str], Tensor] = {}
        for (key, shape), sample in zip(self.shapes.items(), self.samples, strict=True):
            values[key] = sample.draw().reshape(-1, *shape)  # type: ignore[operator]
        logits = values["logits", ""]
        return Features(
            logits=logits,
            pooled=values["pooled", ""],
            head=info.head.to(logits.device) if info.head is not None else None,
            maps={tap: value for (kind, tap), value in values.items() if kind == "maps"},
            gradients={tap: value for (kind, tap), value in values.items() if kind == "gradients"},
            attention=values.get(("attention", "")),
        )


class Calibration(nn.Module):
    """Scores of several detectors on one bounded sample of images.

    What needs no fit is scored on the way and leaves one number an image; the features that the others read are kept
    until they are fitted.

    Args:
        detectors: after their ``setup``; they stay with whoever made them.
        size: images kept at most.
        info: of the network.
        seed: draws other images.
        scoring: gives the number, ``[B]``; the detector's score by default.
    """

    def __init__(
        self, detectors: Sequence[Detector], size: int, info: NetworkInfo, seed: int = 0, scoring: Scoring = plain_score
    ) -> None:
        super().__init__()
        self.detectors = tuple(detectors)  # a tuple: not registered here, so not summed or merged twice
        self.network, self.scoring = info, scoring
        self.fitting = [i for i, detector in enumerate(detectors) if detector.requires_fit]
        self.ready = [i for i, detector in enumerate(detectors) if not detector.requires_fit]
        self.scores = Sample(bounded(size, info), len(self.ready), seed, torch.float64) if self.ready else None
        read = [self.detectors[i] for i in self.fitting]
        self.features = FeatureSample(size, info, read, seed) if read else None

    def update(self, features: Features) -> None:
        """Offers a batch."""
        if len(features) == 0:
            return
        if self.scores is not None:
            found = [self.scoring(self.detectors[i], features, {}).double() for i in self.ready]
            self.scores.update(torch.stack(found, dim=1), index_of(features))
        if self.features is not None:
            self.features.update(features)

    def compute(self, fitted: Sequence[Fitted], batch: int = 256) -> Tensor:
        """Scores of all detectors on the sampled images over all processes.

        Args:
            fitted: of each detector.
            batch: images scored at once.

        Returns:
            ``[n, detectors]`` float64.
        """
        held = self.scores.draw() if self.scores is not None else None
        kept = self.features.compute(self.network) if self.features is not None else None
        first = held if held is not None else kept.logits if kept is not None else torch.empty(0)
        out = torch.empty(len(first), len(self.detectors), dtype=torch.float64, device=first.device)
        if held is not None:
            out[:, self.ready] = held
        for start in range(0, len(out) if kept is not None else 0, batch):
            assert kept is not None
            some = kept.select(slice(start, start + batch))
            for i in self.fitting:
                out[start : start + batch, i] = self.scoring(self.detectors[i], some, fitted[i]).double()
        return out


def bounded(size: int, info: NetworkInfo) -> int:
    """``size``, or the number of images in the fit set where it is known and smaller."""
    return size if info.labels is None else min(size, max(len(info.labels), 1))


def split(features: Features, share: float, seed: int) -> tuple[Features, Features]:
    """Sets some images of a batch aside, by a hash of their index.

    A detector that remembers training images (a bank of neighbours, a coverage) knows them better than any other ID
    image: what is to be compared or calibrated has to be scored on images that it was not fitted on.

    Args:
        features: a batch.
        share: of all images, that is set aside; 0: none, and both parts are the whole batch.
        seed: draws other images.

    Returns:
        what detectors are fitted on, and what they are scored on.
    """
    if share == 0:
        return features, features
    aside = hash_index(index_of(features), seed) < int(share * 2**63)
    return features.select(~aside), features.select(aside)


def check_steps(who: str, detectors: Sequence[Detector]) -> None:
    """Refuses detectors that score perturbed images: the fit pass takes no step for them.

    Raises:
        InputError: if there is one; after their ``setup``.
    """
    for detector in detectors:
        if detector.extra_forwards["test"]:
            raise InputError(
                f"{who} scores {type(detector).__name__} on training images from the features of one pass, which hold "
                "no perturbed images: write epsilon: 0"
            )


def check_share(share: float) -> None:
    """Refuses to set aside what is no share.

    Raises:
        InputError: if ``share`` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"held_out={share}: the share of training images that is set aside is in [0, 1)")
