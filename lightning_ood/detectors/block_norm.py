"""FeatureNorm combined with other scores. Yu et al. CVPR 2023. https://arxiv.org/abs/2212.02295."""

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
    """Rescales the penultimate feature to the FeatureNorm of a chosen block, then scores the new logits.

    ``f' = s * z / ||z||``, s the FeatureNorm of the chosen block; logits ``W f' + b``. The direction of z carries the
    class, the norm of the block how much of an object the image shows. A zero feature stays zero. The predicted class
    can change only through the bias.

    With ``norm.block`` it fits nothing. Otherwise it fits as FeatureNorm does, on all training images and their
    jigsaws. State: that of FeatureNorm; with ``match`` also a sum per block and one number.

    Follows the authors' explanation (issue 2 of their repository), since they published no code for it. Deviations,
    both options: the bias, which they do not mention, is kept. With ``match``, s is multiplied by one factor,
    ``mean ||z|| / mean s`` over the training images: FeatureNorm has another scale than the penultimate feature, and
    MSP, Energy and ODIN depend on that scale. The published form has no factor.

    Args:
        base: the score of the new logits; Energy where None.
        norm: the FeatureNorm that gives the length; where None, one that chooses among the network's blocks by
            NormRatio.
        bias: whether the classifier's bias is added.
        match: whether s is rescaled to the scale of the penultimate feature.
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
        """Whether a block has to be chosen or a scale computed."""
        return self.match or self.norm.requires_fit

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums for the scale."""
        super().setup(info)
        self.add_state("sums", torch.zeros(len(self.norm.taps), dtype=torch.float64), "sum")
        self.add_state("length", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, features: Features) -> None:
        """Adds a batch to FeatureNorm and to the sums of block norms and of penultimate feature norms."""
        self.norm.update(features)
        if self.match:
            norms = torch.stack([feature_norm(features.maps[tap]).double().sum() for tap in self.norm.taps])  # [n]
            self.sums = self.sums + norms
            self.length = self.length + features.pooled.norm(dim=1).double().sum()

    def compute(self) -> dict[str, Tensor]:
        """Computes FeatureNorm's fit, under ``norm.``, and ``scale``, the factor of the chosen block."""
        chosen = self.norm.compute()
        fitted = nest("norm", chosen)
        if self.match:
            self._require_images(self.length)
            total = self.sums.reshape(-1)[self.norm.position(chosen)]
            fitted["scale"] = torch.where(total > 0, self.length / total.clamp_min(torch.finfo().tiny), 1.0)
        return fitted

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` of the rescaled feature."""
        assert features.head is not None
        length = self.norm.score(features, unnest("norm", fitted))  # [B]
        if self.match:
            length = length * fitted["scale"].to(length.dtype)
        pooled = F.normalize(features.pooled, dim=1) * length[:, None]
        return F.linear(pooled, features.head.weight, features.head.bias if self.bias else None)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the scale and FeatureNorm's summary."""
        own: dict[str, float | str] = {"scale": float(fitted["scale"])} if self.match else {}
        return own | {f"norm.{key}": value for key, value in self.norm.summary(unnest("norm", fitted)).items()}
