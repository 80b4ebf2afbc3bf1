"""Perturbation of images along the gradient of a loss: of all entries (ODIN), or of a few (i-ODIN, AdaSCALE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_ood.ops.transfer import beside


@dataclass(frozen=True)
class Perturbation:
    """A step of every pixel against the sign of a loss's gradient; a gradient of zero counts as positive.

    Perturbations compare by value, and equal ones are computed once. A detector declares them
    (``Detector.perturbations``). The backbone computes the gradient and runs the network on the perturbed images,
    whose features are ``features.views[perturbation]``. A detector therefore never needs the network.

    Attributes:
        of: name of the loss; losses of equal name are equal.
        step: length of the step per channel, in units of the network's input.
        loss: maps the features of the unperturbed images, connected to the pixels by the autograd graph, to ``[B]``.
    """

    of: str
    step: tuple[float, float, float]
    loss: Callable[[Any], Tensor] = field(compare=False, repr=False)

    def total(self, features: Any) -> Tensor:
        """Sums the loss over a batch of ``Features``, in the precision of the features even where autocast is on."""
        with torch.autocast(features.logits.device.type, enabled=False):
            return self.loss(features).sum()

    def __call__(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Returns perturbed images ``[B, 3, H, W]``, given ``gradient`` = d loss / d images of the same shape."""
        step = beside(torch.tensor(self.step, dtype=images.dtype)[:, None, None], images)  # [3, 1, 1]
        return images.detach() - torch.where(gradient >= 0, step, -step)


@dataclass(frozen=True)
class LargestEntries(Perturbation):
    """The step of those entries of an image alone whose gradient is largest.

    Attributes:
        entries: number of the 3 H W entries that are changed, at most all.
    """

    entries: int = 1

    def __call__(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Returns perturbed images ``[B, 3, H, W]``, given ``gradient`` = d loss / d images of the same shape."""
        size = gradient.abs().flatten(1)  # [B, 3 H W]
        chosen = size.topk(min(self.entries, size.shape[1]), dim=1, sorted=False).indices
        mask = torch.zeros_like(size).scatter(1, chosen, 1.0).view_as(gradient)
        return torch.where(mask > 0, super().__call__(images, gradient), images.detach())


@dataclass(frozen=True)
class TrivialPixels(Perturbation):
    """A step along the gradient's sign of those entries alone whose gradient is smallest; one of 0 stays.

    Attributes:
        share: fraction of an image's 3 H W entries that is changed, those of the smallest gradient; rounded down.
    """

    share: float = 0.05

    def __call__(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Returns perturbed images ``[B, 3, H, W]``, given ``gradient`` = d loss / d images of the same shape."""
        size = gradient.abs().flatten(1)  # [B, 3 H W]
        chosen = size.topk(int(size.shape[1] * self.share), dim=1, largest=False, sorted=False).indices
        mask = torch.zeros_like(size).scatter(1, chosen, 1.0).view_as(gradient)
        step = beside(torch.tensor(self.step, dtype=images.dtype)[:, None, None], images)  # [3, 1, 1]
        return images.detach() + gradient.sign() * mask * step
