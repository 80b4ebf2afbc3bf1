"""ID training images against OOD stand-ins, scored once the detectors are fitted: what a search maximises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import Calibration, Scoring, check_share, check_steps, plain_score, split
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import View

Criterion = Literal["auroc", "fpr95"]


class PseudoOOD(nn.Module):
    """Scores of detectors on ID training images and on what stands for OOD, from the one pass over the fit set.

    OOD is stood for by views of the training images, or, where there are no views, by the images of a validation OOD
    set (``update_ood``).

    Args:
        detectors: after their ``setup``.
        views: transforms of ID images.
        info: of the network.
        size: images kept of each set at most.
        held_out: share of the training images that detectors are not fitted on and scored on instead. Not used where
            no detector is fitted.
        seed: draws other images.
        scoring: gives the number that is compared.
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
        self.views, self.seed = tuple(views), seed
        self.share = held_out if any(detector.requires_fit for detector in detectors) else 0.0
        self.known = Calibration(detectors, size, info, seed, scoring)
        self.names = tuple(str(view) for view in views) or ("validation OOD set",)
        others = [Calibration(detectors, size, info, seed, scoring) for _ in self.names]
        self.unknown = nn.ModuleList(others)

    def update(self, features: Features) -> Features:
        """Offers a batch of training images; returns those that the detectors may be fitted on."""
        fitted_on, scored_on = split(features, self.share, self.seed)
        self.known.update(scored_on)
        for view, calibration in zip(self.views, self.unknown, strict=False):
            calibration.update(features.views[view])  # type: ignore[operator]
        return fitted_on

    def update_ood(self, features: Features) -> None:
        """Offers a batch of validation OOD images; not used where views stand for OOD."""
        if not self.views:
            self.unknown[0].update(features)  # type: ignore[operator]

    def compute(self, fitted: Sequence[Fitted]) -> tuple[Tensor, list[Tensor]]:
        """Scores over all processes.

        Returns:
            ``[n, detectors]`` of training images, and ``[m, detectors]`` of each stand-in; float64.

        Raises:
            InputError: if one of them has no image.
        """
        known = self.known.compute(fitted)
        unknown = [calibration.compute(fitted) for calibration in self.unknown]  # type: ignore[operator]
        if len(known) == 0:
            raise InputError("no training image was held out to be scored: raise `held_out`, or fit on more images")
        for name, scores in zip(self.names, unknown, strict=True):
            if len(scores) == 0:
                raise InputError(f"the {name} gave no image: name transforms in `pseudo_ood`, or give `data.val_ood`")
        return known, unknown


def criterion(known: Tensor, unknown: Tensor, which: Criterion) -> Tensor:
    """AUROC, or FPR95 with ID positive; a fraction.

    Args:
        known: ``[n]`` scores of ID images.
        unknown: ``[m]`` scores of OOD images.
        which: of the two.
    """
    if which == "fpr95":
        kept = -(-19 * len(known) // 20)
        return (unknown >= known.sort(descending=True).values[kept - 1]).double().mean()
    ordered, known = unknown.sort().values, known.contiguous()
    below = torch.searchsorted(ordered, known) + torch.searchsorted(ordered, known, right=True)
    return below.double().mean() / (2 * len(ordered))


def middle_of_best(values: Tensor) -> int:
    """Position of the largest of ``values`` ``[n]``; of several that are equal, the middle one."""
    tied = (values >= values.max() - 1e-9).nonzero().flatten()
    return int(tied[len(tied) // 2])
