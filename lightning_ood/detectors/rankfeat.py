"""RankFeat: Rank-1 Feature Removal for OOD Detection. Song, Sebe, Wang. NeurIPS 2022. https://arxiv.org/abs/2209.08590."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo


class RankFeat(Shaping):
    """Removes the rank-1 part of the map before pooling, ``A - s u v^T``, then scores the new logits (eq. 2).

    A is the map ``[C, N]`` over N positions; s, u and v are its largest singular value and the singular vectors. The
    classifier is linear in the mean over the positions, so its input changes by ``-A v mean(v)``. v comes from a power
    iteration of ``A^T A`` that starts at a constant vector, the same for any batch.

    Fits nothing. N**2 C multiplications per image.

    Deviations: the last block alone. The paper's best score also averages with the logits of block 3 after the removal
    there, which needs another forward through block 4. The start is constant instead of random; a rectified map has a
    non-negative v, to which it is never orthogonal. A network that does not pool the map by its mean (a class token)
    is no case of the paper: there the same change is made to the classifier's input.

    Args:
        iterations: of the power iteration; the authors' code takes 20.
        base: the score of the new logits; Energy where None.

    Raises:
        InputError: if there is no iteration.
    """

    taps: tuple[str, ...] = ("last",)

    def __init__(self, iterations: int = 20, base: LogitScore | None = None) -> None:
        super().__init__(base)
        if iterations < 1:
            raise InputError(f"iterations={iterations} find no singular vector; the authors take 20")
        self.iterations = iterations

    def setup(self, info: NetworkInfo) -> None:
        """Checks that the map has a channel per unit of the feature.

        Raises:
            InputError: if it has not.
        """
        super().setup(info)
        channels = info.maps["last"][0]
        if channels != info.num_features:
            raise InputError(
                f"RankFeat needs a channel of the map `last` per unit of the penultimate feature, and this network has "
                f"{channels} channels and {info.num_features} units; leave the detector out for this network"
            )

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` without the rank-1 part."""
        assert features.head is not None
        rows = features.maps["last"].float().flatten(2)  # [B, C, N]
        gram = rows.transpose(1, 2) @ rows  # [B, N, N]
        gram = gram / gram.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
        v = torch.ones_like(gram[:, :, :1])  # [B, N, 1]
        for _ in range(self.iterations):
            v = F.normalize(gram @ v, dim=1)
        removed = (rows @ v).squeeze(2) * v.mean(1)  # [B, C], the mean of A v v^T over positions
        return features.head(features.pooled - removed)
