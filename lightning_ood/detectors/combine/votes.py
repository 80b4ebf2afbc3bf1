"""How much each of several detectors counts: the log-odds that it tells held-out training images from pseudo-OOD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import Calibration
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.metrics.rates import auroc
from lightning_ood.views import View


class Votes(nn.Module):
    """Scores detectors on views of held-out training images, and gives each a vote.

    The vote is ``log(A / (1 - A))``, A the detector's AUROC against the views: the weight that is best for independent
    voters that are right with probability A. Images of the views are those that the detectors were not fitted on, since
    a detector that memorises images knows their views too.

    Args:
        detectors: after their ``setup``.
        views: transforms of training images.
        size: largest number of images of each view.
        info: of the network.
        seed: seed of the samples.
    """

    def __init__(
        self, detectors: Sequence[Detector], views: Sequence[View], size: int, info: NetworkInfo, seed: int
    ) -> None:
        super().__init__()
        self.views = tuple(views)
        self.samples = nn.ModuleList(Calibration(detectors, size, info, seed) for _ in views)

    def update(self, scored_on: Features) -> None:
        """Considers the views of a batch of held-out images for the samples."""
        if len(scored_on):
            for view, sample in zip(self.views, self.samples, strict=True):
                sample.update(scored_on.views[view])  # type: ignore[operator]

    def compute(self, id_scores: Tensor, fitted: Sequence[Fitted]) -> dict[str, Tensor]:
        """Computes ``auroc`` ``[views, M]`` and ``votes`` ``[M]``, float64, from ID scores ``[n, M]``.

        Raises:
            InputError: if a score of a detector is not finite.
        """
        rows = []
        for sample in self.samples:
            scores = sample.compute(fitted)  # type: ignore[operator]  # [m, M]
            if not scores.isfinite().all() or not id_scores.isfinite().all():
                raise InputError("a member of Fusion gives scores that are not finite; leave it out")
            pairs = zip(id_scores.unbind(1), scores.unbind(1), strict=True)
            rows.append(id_scores.new_tensor([auroc(ids, oods) for ids, oods in pairs]))
        found = torch.stack(rows)  # [views, M]
        return {"auroc": found, "votes": log_odds(found.mean(0), len(id_scores))}


def log_odds(auroc_of_each: Tensor, images: int) -> Tensor:
    """Computes votes ``[M]`` from AUROCs ``[M]`` on a number of images.

    An AUROC above ``1 - 1 / (images + 1)`` counts as that, so that no vote is infinite. One of 0.5 or below gives no
    vote. If no detector has one, all count alike.
    """
    capped = auroc_of_each.clamp(min=0.5, max=1 - 1 / (images + 1))
    votes = (capped / (1 - capped)).log()
    return torch.where(votes.any(), votes, torch.ones_like(votes))
