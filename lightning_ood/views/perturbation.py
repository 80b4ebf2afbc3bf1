"""Images that take a small step along a gradient: what ODIN scores instead of the images themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_ood.ops.transfer import beside

if TYPE_CHECKING:
    from lightning_ood.features import Features


@dataclass(frozen=True)
class Perturbation:
    """A step of every pixel against the sign of a loss's gradient; a gradient of zero counts as positive.

    A value: equal ones are computed once. A detector declares it (``Detector.perturbations``), the backbone takes the
    gradient and reads the new images, whose features arrive in ``features.views[perturbation]``: no detector holds
    the network.

    Attributes:
        of: names the loss; equal names are equal losses.
        step: length of the step per channel, in units of the network's input.
        loss: from the features of the images themselves, part of a graph down to the pixels, to ``[B]``.
    """

    of: str
    step: tuple[float, float, float]
    loss: Callable[[Features], Tensor] = field(compare=False, repr=False)

    def total(self, features: Features) -> Tensor:
        """The loss of a batch, summed; in the precision of the features, whatever the network's forward runs in."""
        with torch.autocast(features.logits.device.type, enabled=False):
            return self.loss(features).sum()

    def __call__(self, images: Tensor, gradient: Tensor) -> Tensor:
        """The new images ``[B, 3, H, W]``, given ``d loss / d images``."""
        step = beside(torch.tensor(self.step, dtype=images.dtype)[:, None, None], images)
        return images.detach() - torch.where(gradient >= 0, step, -step)
