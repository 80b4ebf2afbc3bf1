"""The norm of a chosen block, lent to other scores. Yu et al. CVPR 2023, with FeatureNorm. https://arxiv.org/abs/2212.02295."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors._contract import nest, unnest
from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.feature_norm import FeatureNorm, feature_norm
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.shaping import Shaping
from lightning_ood.features import Features, NetworkInfo


class BlockNorm(Shaping):
    """Gives the penultimate feature the length that a block has, then scores the new logits.

    ``f' = s * z / ||z||``, s the FeatureNorm of the chosen block; logits ``W f' + b``. The direction says which class,
    the block how much of an object there is. A zero feature stays zero. The predicted class can change only through
    the bias.

    Given ``norm.block`` it fits nothing. Else it fits as FeatureNorm does: on all training images and their jigsaws.
    State: that of FeatureNorm; with ``match`` a sum per block and one number more.

    After the authors' explanation (issue 2 of their repository), there is no code. Deviations, both options: the
    bias, of which they say nothing, stays; and with ``match`` s is rescaled by one factor, ``mean ||z|| / mean s`` over
    the training images, since FeatureNorm is not on the scale of the penultimate feature, which MSP, Energy and ODIN
    are not indifferent to. The published form has no factor.

    Args:
        base: the score of the new logits; Energy where None.
        norm: which block, and how it is chosen; by NormRatio among the network's own where None.
        bias: whether the classifier's bias takes part.
        match: whether s is brought to the scale of the penultimate feature.
    """

    sums: Tensor
    length: Tensor

    def __init__(
        self,
        base: LogitScore | None = None,
        norm: FeatureNorm | None = None,
        bias: bool = True,
        match: bool = False,
    ) -> None:
        super().__init__(base)
        self.norm = norm if norm is not None else FeatureNorm()
        self.bias, self.match = bias, match

    @property
    def requires_fit(self) -> bool:
        """Only a choice or a scale has to be found."""
        return self.match or self.norm.requires_fit

    def setup(self, info: NetworkInfo) -> None:
        """Declares what the scale is found from."""
        super().setup(info)
        self.add_state("sums", torch.zeros(len(self.norm.taps), dtype=torch.float64), "sum")
        self.add_state("length", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, features: Features) -> None:
        """Fits the choice; sums the norms of each block and the lengths of the penultimate feature."""
        self.norm.update(features)
        if self.match:
            norms = torch.stack([feature_norm(features.maps[tap]).double().sum() for tap in self.norm.taps])
            self.sums = self.sums + norms
            self.length = self.length + features.pooled.norm(dim=1).double().sum()

    def compute(self) -> dict[str, Tensor]:
        """What FeatureNorm fitted, under ``norm.``, and ``scale``, the factor of the chosen block."""
        chosen = self.norm.compute()
        fitted = nest("norm", chosen)
        if self.match:
            self._require_images(self.length)
            total = self.sums.reshape(-1)[self.norm.position(chosen)]
            fitted["scale"] = torch.where(total > 0, self.length / total.clamp_min(torch.finfo().tiny), 1.0)
        return fitted

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Logits of the feature of another length, ``[B, K]``."""
        assert features.head is not None
        length = self.norm.score(features, unnest("norm", fitted))
        if self.match:
            length = length * fitted["scale"].to(length.dtype)
        pooled = F.normalize(features.pooled, dim=1) * length[:, None]
        return F.linear(pooled, features.head.weight, features.head.bias if self.bias else None)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """What FeatureNorm says, and the scale."""
        said: dict[str, float | str] = {"scale": float(fitted["scale"])} if self.match else {}
        return said | {f"norm.{key}": value for key, value in self.norm.summary(unnest("norm", fitted)).items()}
