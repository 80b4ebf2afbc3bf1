"""The objective of a search: how well fitted detectors separate ID training images from pseudo-OOD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import (
    Calibration,
    Scoring,
    check_share,
    check_steps,
    plain_score,
    split,
    stream_of,
)
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.metrics.rates import compare
from lightning_ood.views import View

Criterion = Literal["auroc", "fpr95"]


class PseudoOOD(nn.Module):
    """Scores detectors on ID training images and on pseudo-OOD, from the one pass over the fit set.

    Pseudo-OOD are views of the training images or, without views, the images of a validation OOD set (``update_ood``).

    Args:
        detectors: after their ``setup``.
        views: transforms of ID images.
        info: of the network.
        size: largest number of images of each set.
        held_out: fraction of the training images on which detectors are scored and not fitted. Not used if no detector
            requires a fit.
        seed: seed of the samples.
        scoring: computes the numbers that are compared.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        views: Sequence[View],
        info: NetworkInfo,
        size: int,
        held_out: float = 0.0,
        seed: int = 0,
        scoring: Scoring = plain_score,
    ) -> None:
        super().__init__()
        check_share(held_out)
        check_steps("A search", detectors)
        self.views, self.seed, self.stream = tuple(views), seed, stream_of(info)
        self.share = held_out if any(detector.requires_fit for detector in detectors) else 0.0
        self.id = Calibration(detectors, size, info, seed, scoring)
        self.names = tuple(str(view) for view in views) or ("validation OOD set",)
        self.ood = nn.ModuleList(Calibration(detectors, size, info, seed, scoring) for _ in self.names)

    def update(self, features: Features) -> Features:
        """Adds a batch of training images and returns those that the detectors may be fitted on."""
        fitted_on, scored_on = split(features, self.share, self.seed, self.stream)
        self.id.update(scored_on)
        for view, calibration in zip(self.views, self.ood, strict=False):
            calibration.update(features.views[view])  # type: ignore[operator]
        return fitted_on

    def update_ood(self, features: Features) -> None:
        """Adds a batch of validation OOD images; ignored if there are views."""
        if not self.views:
            self.ood[0].update(features)  # type: ignore[operator]

    def compute(self, fitted: Sequence[Fitted]) -> tuple[Tensor, list[Tensor]]:
        """Scores the sampled images of all processes.

        Returns:
            ``[n, detectors]`` of ID training images, and a list of ``[m, detectors]`` per pseudo-OOD set; float64.

        Raises:
            InputError: if a set has no image.
        """
        id_scores = self.id.compute(fitted)
        ood_scores = [calibration.compute(fitted) for calibration in self.ood]  # type: ignore[operator]
        if len(id_scores) == 0:
            raise InputError("no training image was held out to be scored: raise `held_out`, or fit on more images")
        for name, scores in zip(self.names, ood_scores, strict=True):
            if len(scores) == 0:
                raise InputError(f"the {name} has no image: name transforms in `pseudo_ood`, or give `data.val_ood`")
        return id_scores, ood_scores


def criterion(id_scores: Tensor, ood_scores: Tensor, which: Criterion) -> Tensor:
    """Computes AUROC, or FPR95 with ID positive, as a fraction.

    Args:
        id_scores: ``[n]``.
        ood_scores: ``[m]``.
        which: ``auroc`` or ``fpr95``.
    """
    value = getattr(compare(id_scores, ood_scores), which)
    return torch.tensor(value, dtype=torch.float64, device=id_scores.device)


def middle_of_best(values: Tensor) -> int:
    """Returns the index of the largest of ``values`` ``[n]``; of several equal ones, the middle one."""
    tied = (values >= values.max() - 1e-9).nonzero().flatten()
    return int(tied[len(tied) // 2])
