"""Detecting OOD Examples with Gram Matrices. Sastry, Oore. ICML 2020. https://arxiv.org/abs/1912.12510."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import index_of
from lightning_ood.detectors.calibration import bounded, check_share, split
from lightning_ood.detectors.doubts import FEW, Seen, few_doubts
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.statistics.sample import Sample

_STREAM = 1  # of the split: odd, and so different from that of a fusion or a search around it
_EPS = 1e-6  # added to a bound before its absolute value is divided by, as in the authors' code


class Gram(Detector):
    """How far correlations between channels leave the range that they have on training images (section 3).

    ``G_p`` of a map ``F`` ``[C, N]`` is the vector of the sums of rows of ``(F^p F^pT)``, to the power ``1 / p`` (with
    their sign), for each order p. For a class c, ``min`` and ``max`` are the bounds of each entry over the training
    images that the network predicts as c. The deviation of a map is, over all entries and orders,
    ``sum relu(min - G) / |min| + relu(G - max) / |max|`` with the bounds of the image's predicted class. The score is
    ``-sum_maps deviation / mean deviation`` over the largest softmax probability. Never positive.

    Fits on all training images but a share of ``held_out``, without labels; the mean deviation of a map is that of a
    uniform sample of at most ``images`` of the held-out images. State: ``2 K P C + images (P C + 2)`` float32 with P
    orders and C channels of all maps together: 20 MB at K = 10, P = 10, C = 960, and 384 MB at K = 1000 and C = 3840;
    fitted: ``low`` and ``high`` ``[K, P C]``, ``mean`` ``[maps]``.

    Deviations: the maps are blocks (one per resolution), where the authors take every convolution. Held-out images are
    training images, where the authors take a part of the test set. A class that is predicted for no training image has
    the bounds of all classes together.

    Args:
        maps: names of the maps; the last block of each resolution where None.
        orders: P, the orders are 1 to P.
        held_out: fraction of the training images for the mean deviation.
        images: largest number of held-out images.
        seed: seed of the split and of the sample.

    Raises:
        InputError: if ``orders`` or ``images`` is below 1, or ``held_out`` is not in (0, 1).
    """

    positive = False

    low: Tensor
    high: Tensor

    def __init__(
        self,
        maps: list[str] | None = None,
        orders: int = 10,
        held_out: float = 0.1,
        images: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least("orders", orders, 1)
        check_at_least("images", images, 1)
        check_share(held_out)
        if held_out == 0:
            raise InputError(
                "held_out=0 leaves no image for the mean deviation, which is 0 on fitted images; write 0.1"
            )
        self.maps, self.orders = maps, orders
        self.held_out, self.images, self.seed = held_out, images, seed

    def setup(self, info: NetworkInfo) -> None:
        """Selects the maps and declares the bounds and the sample."""
        self.taps = tuple(self.maps if self.maps is not None else last_of_each_size(info))
        if not self.taps:
            raise InputError("Gram: no blocks were found in this network; name its maps in `maps`")
        super().setup(info)
        self.sizes = [self.orders * info.maps[tap][0] for tap in self.taps]  # entries of each map
        shape = (info.num_classes, sum(self.sizes))
        self.add_state("low", torch.full(shape, torch.inf), "min")
        self.add_state("high", torch.full(shape, -torch.inf), "max")
        self.sample = Sample(bounded(self.images, info), shape[1] + 2, self.seed)

    def update(self, features: Features) -> None:
        """Widens the bounds by a batch, and considers its held-out images for the sample."""
        fitted_on, scored_on = split(features, self.held_out, self.seed, _STREAM)
        if len(fitted_on):
            entries, rows = self._entries(fitted_on), fitted_on.prediction[:, None]  # [B, P C], [B, 1]
            rows = rows.expand_as(entries)
            self.low = self.low.scatter_reduce(0, rows, entries, "amin")
            self.high = self.high.scatter_reduce(0, rows, entries, "amax")
        if len(scored_on):
            confidence = scored_on.probs.amax(1, keepdim=True)
            row = [self._entries(scored_on), scored_on.prediction[:, None].float(), confidence]
            self.sample.update(torch.cat(row, dim=1), index_of(scored_on))

    def compute(self) -> dict[str, Tensor]:
        """Computes the bounds ``low`` and ``high`` ``[K, P C]`` and the ``mean`` deviation of each map."""
        seen = self.low.isfinite().all(1)  # [K]
        self._require_images(seen)
        low = torch.where(seen[:, None], self.low, self.low.amin(0))
        high = torch.where(seen[:, None], self.high, self.high.amax(0))
        rows = self.sample.draw()
        if len(rows) == 0:
            raise InputError("Gram: no training image was held out for the mean deviation: raise `held_out`")
        deviations = self._deviations(rows[:, :-2], rows[:, -2].long(), low, high) / rows[:, -1:]
        return {"low": low, "high": high, "mean": deviations.mean(0) + 1e-7}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts bounds of few images."""
        return [*super().doubts(fitted, seen), *few_doubts(seen, len(fitted["low"]), "its bounds of a class", 2 * FEW)]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        deviations = self._deviations(self._entries(features), features.prediction, fitted["low"], fitted["high"])
        return -(deviations / fitted["mean"]).sum(1) / features.probs.amax(1)

    def _entries(self, features: Features) -> Tensor:
        """Computes ``G_p`` of all maps and orders, ``[B, P C]``."""
        return torch.cat([gram(features.maps[tap], self.orders) for tap in self.taps], dim=1)

    def _deviations(self, entries: Tensor, predicted: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Computes the deviation of each map, ``[B, maps]``, from entries ``[B, P C]`` and predictions ``[B]``."""
        low, high = low[predicted], high[predicted]  # [B, P C]
        below = (low - entries).relu() / (low + _EPS).abs()
        above = (entries - high).relu() / (high + _EPS).abs()
        return torch.stack([part.sum(1) for part in (below + above).split(self.sizes, dim=1)], dim=1)


def gram(map_: Tensor, orders: int) -> Tensor:
    """Computes the sums of rows of the Gram matrices of orders 1 to P: ``[B, P * C]``.

    The map is divided by its largest value first, so that no power overflows; ``G_p`` grows with its square.

    Args:
        map_: ``[B, C, ...]``.
        orders: P.
    """
    rows = map_.float().flatten(2)  # [B, C, N]
    scale = rows.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
    rows, found = rows / scale, []
    for p in range(1, orders + 1):
        powers = rows.pow(p)
        sums = (powers * powers.sum(1, keepdim=True)).sum(2)  # [B, C], without the matrix [C, C]
        found.append(sums.sign() * sums.abs().pow(1 / p))
    return torch.cat(found, dim=1) * scale.square().squeeze(2)


def last_of_each_size(info: NetworkInfo) -> list[str]:
    """Lists the last block of each resolution, in order of execution."""
    return list({info.maps[tap][1:]: tap for tap in info.blocks}.values())
