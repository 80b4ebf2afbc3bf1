"""Block Selection Method for Using Feature Norm in OOD Detection. Yu et al. CVPR 2023. https://arxiv.org/abs/2212.02295."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, Raw, View


class FeatureNorm(Detector):
    """The norm of one block's map; the block is the one that tells images from their own jigsaws best.

    ``FeatureNorm(Z) = mean_c ||relu(Z_c)||_2`` over the space of each channel of a map ``Z`` ``[C, H, W]`` (eq. 3).
    ``NormRatio = mean over training images x of FeatureNorm(x) / FeatureNorm(jigsaw(x))`` (eq. 4); the block with the
    largest ratio is chosen.

    Given a ``block`` it fits nothing. Else it fits on all training images and one jigsaw of each (a second forward per
    training image, a third with ``raw``), without labels. State: a sum and a count per block; fitted: ``ratios``
    ``[n]`` and ``block``.

    Deviations: the authors take the ratios on inputs without normalisation and leave a black border around the jigsaw
    (``raw=True``, ``border=True``); here the jigsaw is of the input as the network reads it. An image whose jigsaw has
    norm zero in a block is not counted there; a block that never had another has ratio 0.

    Args:
        blocks: the maps to choose from; the network's own blocks where None.
        block: the map to take, without choosing.
        grid: tiles per side of the jigsaw.
        seed: draws the permutations.
        border: leave the rows and columns that no tile covers black, as the authors do.
        raw: take the ratios on images in [0, 1], without normalisation, as the authors do.
    """

    views: tuple[View, ...]
    sums: Tensor
    counts: Tensor
    images: Tensor

    def __init__(
        self,
        blocks: list[str] | None = None,
        block: str | None = None,
        grid: int = 3,
        seed: int = 0,
        border: bool = False,
        raw: bool = False,
    ) -> None:
        super().__init__()
        if blocks is not None and block is not None:
            raise InputError("FeatureNorm takes `blocks` to choose from or the one `block` to use, not both")
        self.blocks, self.block, self.raw = blocks, block, raw
        self.grid, self.seed, self.border = grid, seed, border
        self.jigsaw = Jigsaw(grid, seed, border)
        self.views = () if block else (self.jigsaw,)

    @property
    def requires_fit(self) -> bool:
        """Only a choice has to be made."""
        return self.block is None

    def setup(self, info: NetworkInfo) -> None:
        """Takes the network's blocks where none are given, and declares a sum and a count for each."""
        self.taps = (self.block,) if self.block else tuple(self.blocks or info.blocks)
        if not self.taps:
            raise InputError("FeatureNorm finds no blocks in this network: name its maps in `blocks`")
        if self.raw and self.requires_fit:  # the pair: the image and its jigsaw
            self.views = (Raw(info.mean, info.std), Raw(info.mean, info.std, self.jigsaw))
        super().setup(info)
        self.add_state("sums", torch.zeros(len(self.taps), dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(len(self.taps), dtype=torch.int64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Sums the ratios of the batch."""
        if not self.requires_fit:
            return
        jigsaw = features.views[self.views[-1]]
        whole = features.views[self.views[0]] if self.raw else features
        norm = torch.stack([feature_norm(whole.maps[tap]) for tap in self.taps]).double()  # [n, B]
        other = torch.stack([feature_norm(jigsaw.maps[tap]) for tap in self.taps]).double()
        valid = other > 0
        self.sums = self.sums + torch.where(valid, norm / other.where(valid, 1), 0).sum(dim=1)
        self.counts = self.counts + valid.sum(dim=1)
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """``ratios`` ``[n]``, the NormRatio of each block, and ``block``, the position of the largest."""
        if not self.requires_fit:
            return {}
        self._require_images(self.images)
        ratios = self.sums / self.counts.clamp_min(1)
        return {"ratios": ratios, "block": ratios.argmax()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """FeatureNorm of the chosen block, ``[B]``, not negative."""
        return feature_norm(features.maps[self.taps[self.position(fitted)]])

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """The chosen block, and the NormRatio of each."""
        ratios = fitted["ratios"].tolist() if self.requires_fit else []
        block = self.taps[self.position(fitted)]
        return {"block": block, **{f"ratio.{tap}": r for tap, r in zip(self.taps, ratios, strict=False)}}

    def position(self, fitted: Fitted) -> int:
        """Of the chosen block among ``taps``."""
        return int(fitted["block"]) if self.requires_fit else 0


def feature_norm(activation: Tensor) -> Tensor:
    """FeatureNorm of maps ``[B, C, ...]``: ``[B]``, not negative."""
    return activation.float().relu().flatten(2).norm(dim=2).mean(dim=1)
