"""Block Selection Method for Using Feature Norm in OOD Detection. Yu et al. CVPR 2023. https://arxiv.org/abs/2212.02295."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, Raw, View


class FeatureNorm(Detector):
    """Norm of the map of one block, chosen as the block that best separates images from their own jigsaws.

    ``FeatureNorm(Z) = mean_c ||relu(Z_c)||_2``, the norm over the positions of each channel of a map ``Z``
    ``[C, H, W]`` (eq. 3). ``NormRatio = mean over training images x of FeatureNorm(x) / FeatureNorm(jigsaw(x))``
    (eq. 4); the block with the largest ratio is chosen.

    With ``block`` it fits nothing. Otherwise it fits on all training images and one jigsaw of each (a second forward
    per training image, a third with ``raw``), without labels. State: a sum and a count per block; fitted: ``ratios``
    ``[n]`` and ``block``.

    Deviations: the authors compute the ratios on inputs without normalisation and leave a black border around the
    jigsaw (``raw=True``, ``border=True``); by default the jigsaw is made of the normalised input. An image whose jigsaw
    has norm zero in a block is not counted for that block; a block without any counted image has ratio 0.

    Args:
        blocks: the maps to choose from; the network's own blocks where None.
        block: the map to use, without a choice.
        grid: tiles per side of the jigsaw.
        seed: seed of the permutations.
        border: leave the rows and columns that no tile covers black, as the authors do.
        raw: compute the ratios on images in [0, 1], without normalisation, as the authors do.
    """

    map_form = "norm"
    reads_logits = False

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
        check_at_least("grid", grid, 2)
        self.blocks, self.block, self.raw = blocks, block, raw
        self.grid, self.seed, self.border = grid, seed, border
        self.jigsaw = Jigsaw(grid, seed, border)
        self.views = () if block else (self.jigsaw,)

    @property
    def requires_fit(self) -> bool:
        """Whether a block has to be chosen."""
        return self.block is None

    def setup(self, info: NetworkInfo) -> None:
        """Selects the candidate blocks and declares a sum and a count for each."""
        self.taps = (self.block,) if self.block else tuple(self.blocks or info.blocks)
        if not self.taps:
            raise InputError("FeatureNorm: no blocks were found in this network; name its maps in `blocks`")
        if self.raw and self.requires_fit:  # the raw image and its jigsaw
            self.views = (Raw(info.mean, info.std), Raw(info.mean, info.std, self.jigsaw))
        super().setup(info)
        self.add_state("sums", torch.zeros(len(self.taps), dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(len(self.taps), dtype=torch.int64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Adds the ratios of a batch."""
        if not self.requires_fit:
            return
        jigsaw = features.views[self.views[-1]]
        image = features.views[self.views[0]] if self.raw else features
        image_norm = torch.stack([feature_norm(image.maps[tap]) for tap in self.taps]).double()  # [n, B]
        jigsaw_norm = torch.stack([feature_norm(jigsaw.maps[tap]) for tap in self.taps]).double()  # [n, B]
        valid = jigsaw_norm > 0
        self.sums = self.sums + torch.where(valid, image_norm / jigsaw_norm.where(valid, 1), 0).sum(dim=1)  # [n]
        self.counts = self.counts + valid.sum(dim=1)
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``ratios`` ``[n]``, the NormRatio of each block, and ``block``, the index of the largest."""
        if not self.requires_fit:
            return {}
        self._require_images(self.images)
        ratios = self.sums / self.counts.clamp_min(1)
        return {"ratios": ratios, "block": ratios.argmax()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch with the FeatureNorm of the chosen block: ``[B]``, not negative."""
        return feature_norm(features.maps[self.taps[self.position(fitted)]])

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the chosen block and the NormRatio of each block."""
        ratios = fitted["ratios"].tolist() if self.requires_fit else []
        block = self.taps[self.position(fitted)]
        return {"block": block, **{f"ratio.{tap}": r for tap, r in zip(self.taps, ratios, strict=False)}}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a choice where jigsaws have the larger norm in every block."""
        found = super().doubts(fitted, seen)
        largest = float(fitted["ratios"].max()) if self.requires_fit else 2.0
        if largest < 1:
            found.append(
                f"its largest NormRatio is {largest:.3f}: jigsaws have the larger norm in every block, and no block "
                "responds to objects; name a block after an activation in `block`, or leave it out"
            )
        return found

    def position(self, fitted: Fitted) -> int:
        """Returns the index of the chosen block in ``taps``."""
        return int(fitted["block"]) if self.requires_fit else 0


def feature_norm(activation: Tensor) -> Tensor:
    """Computes FeatureNorm of maps ``[B, C, ...]``: ``[B]``, not negative."""
    return activation.float().relu().flatten(2).norm(dim=2).mean(dim=1)  # [B, C, N] -> [B, C] -> [B]
