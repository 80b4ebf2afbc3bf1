"""Scores of fitted detectors on a bounded sample of the fit pass, without a second pass or another forward."""

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
    """Scores a batch with a detector, ``[B]``."""
    return detector.score(features, fitted)


class FeatureSample(nn.Module):
    """Stores the features that detectors read, for the ``size`` images with the smallest hash.

    Each field (logits, penultimate feature, the detectors' maps, gradients and attention) is a sample with the same
    seed. All fields therefore have the same images in the same order, for any batches and processes. State: ``K + D``
    numbers per image plus the maps: 90 KB for the last map of a CIFAR DenseNet, 400 KB for that of a ResNet-50.

    Args:
        size: largest number of images.
        info: of the network; memory is allocated for at most as many images as the fit set has, if it is known.
        detectors: the detectors that will read the sample, after their own ``setup``.
        seed: seed of the sample.
        form: what is stored of a map: the whole, or ``[C, 1]`` numbers that are enough for detectors of this
            ``map_form``.
    """

    def __init__(
        self, size: int, info: NetworkInfo, detectors: Sequence[Detector], seed: int = 0, form: str = "whole"
    ) -> None:
        super().__init__()
        reads, self.form = Reads.union(detector.reads for detector in detectors), form
        shapes: dict[tuple[str, str], Sequence[int]] = {
            ("logits", ""): (info.num_classes,),
            ("pooled", ""): (info.num_features,),
            **{("maps", tap): info.maps[tap] if form == "whole" else (info.maps[tap][0], 1) for tap in reads.taps},
            **{("gradients", tap): info.maps[tap] for tap in reads.gradients},
        }
        if reads.attention and info.attention is not None:
            shapes["attention", ""] = info.attention
        self.shapes = shapes
        size = bounded(size, info)
        self.samples = nn.ModuleList(Sample(size, prod(shape), seed) for shape in shapes.values())

    def update(self, features: Features) -> None:
        """Considers a batch for the sample."""
        for (kind, tap), sample in zip(self.shapes, self.samples, strict=True):
            field = getattr(features, kind)  # [B, ...], or a mapping of them
            value = field[tap] if tap else field
            if kind == "maps" and self.form == "mean":
                value = value.float().flatten(2).mean(2)  # [B, C]
            elif kind == "maps" and self.form == "norm":
                value = value.float().relu().flatten(2).norm(dim=2)  # [B, C]
            sample.update(value.flatten(1), index_of(features))  # type: ignore[operator]

    def compute(self, info: NetworkInfo) -> Features:
        """Returns the features of the sampled images over all processes."""
        values: dict[tuple[str, str], Tensor] = {}
        for (key, shape), sample in zip(self.shapes.items(), self.samples, strict=True):
            values[key] = sample.draw().reshape(-1, *shape)  # type: ignore[operator]  # [n, ...]
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
    """Scores several detectors on one bounded sample of images.

    Detectors without a fit score each batch at once, which leaves one number per image. For the others, the features
    that they read are stored until they are fitted.

    Args:
        detectors: after their ``setup``. They are not registered as children.
        size: largest number of images.
        info: of the network.
        seed: seed of the sample.
        scoring: computes the numbers ``[B]`` of a detector and a batch; the detector's score by default.
    """

    def __init__(
        self, detectors: Sequence[Detector], size: int, info: NetworkInfo, seed: int = 0, scoring: Scoring = plain_score
    ) -> None:
        super().__init__()
        self.detectors = tuple(detectors)  # a tuple, not a ModuleList: registered children would be merged twice
        self.network, self.scoring = info, scoring
        self.requiring_fit = [i for i, detector in enumerate(detectors) if detector.requires_fit]
        self.ready = [i for i, detector in enumerate(detectors) if not detector.requires_fit]
        self.scores = Sample(bounded(size, info), len(self.ready), seed, torch.float64) if self.ready else None
        forms = {i: _form_of(self.detectors[i]) for i in self.requiring_fit}
        self.reading = {form: [i for i in forms if forms[i] == form] for form in forms.values()}
        self.features = nn.ModuleDict(
            {
                form: FeatureSample(size, info, [self.detectors[i] for i in some], seed, form)
                for form, some in self.reading.items()
            }
        )

    def update(self, features: Features) -> None:
        """Considers a batch for the sample."""
        if len(features) == 0:
            return
        if self.scores is not None:
            columns = [self.scoring(self.detectors[i], features, {}).double() for i in self.ready]
            self.scores.update(torch.stack(columns, dim=1), index_of(features))  # rows [B, ready]
        for sample in self.features.values():
            sample.update(features)  # type: ignore[operator]

    def compute(self, fitted: Sequence[Fitted], batch: int = 256) -> Tensor:
        """Scores the sampled images over all processes with all detectors.

        Args:
            fitted: fitted tensors of each detector.
            batch: number of images scored at once.

        Returns:
            ``[n, detectors]`` float64.
        """
        scored = self.scores.draw() if self.scores is not None else None  # [n, ready]
        samples = {form: sample.compute(self.network) for form, sample in self.features.items()}  # type: ignore[operator]
        first = scored if scored is not None else next((one.logits for one in samples.values()), torch.empty(0))
        out = torch.empty(len(first), len(self.detectors), dtype=torch.float64, device=first.device)
        if scored is not None:
            out[:, self.ready] = scored
        for form, sample in samples.items():
            for start in range(0, len(out), batch):
                some = sample.select(slice(start, start + batch))
                for i in self.reading[form]:
                    out[start : start + batch, i] = self.scoring(self.detectors[i], some, fitted[i]).double()
        return out


def _form_of(detector: Detector) -> str:
    """Returns what a sample has to store of the maps that a detector and its descendants read."""
    forms = {one.map_form for one in detector.descendants() if one.taps}
    return forms.pop() if len(forms) == 1 else "whole"


def bounded(size: int, info: NetworkInfo) -> int:
    """Limits ``size`` to the number of images in the fit set, if that is known."""
    return size if info.labels is None else min(size, max(len(info.labels), 1))


def split(features: Features, share: float, seed: int, stream: int = 0) -> tuple[Features, Features]:
    """Splits a batch into images for fitting and held-out images, by a hash of their index.

    A detector that memorises training images (a bank of neighbours, a coverage) scores them higher than other ID
    images. Comparison and calibration therefore need images that the detector was not fitted on.

    Args:
        features: a batch.
        share: fraction of the images that is held out; with 0 both results are the whole batch.
        seed: seed of the split.
        stream: number of the split. The same split of what another one leaves would hold out nothing, so each of
            several splits of the same images has its own number: see ``stream_of``.

    Returns:
        the images that detectors are fitted on, and those that they are scored on.
    """
    if share == 0:
        return features, features
    held_out = hash_index(index_of(features), seed, stream) < int(share * 2**63)  # [B]
    return features.select(~held_out), features.select(held_out)


def stream_of(info: NetworkInfo) -> int:
    """Returns the number of the split that a detector makes, another one for each split around it; always even."""
    return 2 * info.splits


def check_steps(who: str, detectors: Sequence[Detector]) -> None:
    """Checks, after ``setup``, that no detector scores perturbed images, which the fit pass does not compute.

    Raises:
        InputError: if one does.
    """
    for detector in detectors:
        if detector.extra_forwards["test"]:
            raise InputError(
                f"{who} scores {type(detector).__name__} on training images of the fit pass, which computes no "
                "perturbed images: write epsilon: 0"
            )


def check_share(share: float) -> None:
    """Checks the fraction of held-out training images.

    Raises:
        InputError: if ``share`` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"held_out={share} is not in [0, 1); write the fraction of training images to hold out")
