"""Neural Activation Prior for OOD Detection. Wan et al. 2024. https://arxiv.org/abs/2402.18162."""

from typing import Literal

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted, nest, unnest
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Setup


class NAP(Detector):
    """How much a few neurons stand out of their channel: NAP alone, or multiplied into another score.

    Map form, on the map ``A`` ``[C, H, W]`` that enters global pooling (after its last activation), eps in its units:
    ``NAP = mean_c (max_hw A_c / (mean_hw A_c + eps)) ** power``. eps = 1 is no numerical guard: it sets the scale.

    Attention form, on the class token's attention in the last block: ``NAP = max_n attention_n``.

    With a base S: ``weight * log S + (1 - weight) * log NAP``, the logarithm of the weighted geometric mean (NAP-M with
    MSP, NAP-E with Energy, NAP-R with ReAct, ...). weight 1 ranks as the base, weight 0 as NAP.

    NAP fits nothing; the base fits what it fits. There is no code by the authors. What the paper leaves open is an
    option here: how heads are reduced, and whether the class token's attention to itself takes part. Deviations:

    - The printed product has a leading minus, which would turn the ranking of MSP around: there is none here.
    - A base has to be positive, of which the paper says nothing: see ``log_score`` of each (Energy: at least 1e-6).
    - Negative entries of a map (SiLU, GELU, no activation) count as zero: else the denominator crosses zero.

    Args:
        base: another detector whose score NAP is multiplied into; NAP alone where None.
        weight: w of the base, in [0, 1]. The paper searches it per network, data set and base.
        form: ``map`` or ``attention``; ``auto`` is ``attention`` where the network has a class token, else ``map``.
        tap: the map that the map form reads.
        eps: added to the mean of a channel.
        power: exponent of the ratio.
        head_reduction: ``mean`` or ``max`` over heads before the maximum over tokens; ``none`` is the mean over
            heads of each head's own maximum.
        self_entry: whether the class token's attention to itself takes part in the maximum.
    """

    def __init__(
        self,
        base: Detector | None = None,
        weight: float = 0.5,
        form: Literal["auto", "map", "attention"] = "auto",
        tap: str = "last",
        eps: float = 1.0,
        power: float = 2.0,
        head_reduction: Literal["mean", "max", "none"] = "mean",
        self_entry: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"NAP's weight is a share of the base, between 0 and 1, not {weight}")
        self.base, self.weight, self.form = base, weight, form
        self.tap, self.eps, self.power = tap, eps, power
        self.head_reduction, self.self_entry = head_reduction, self_entry

    @property
    def fits(self) -> bool:
        """Only the base may have to."""
        return self.base is not None and self.base.fits

    def setup(self, setup: Setup) -> None:
        """Chooses the form.

        Raises:
            InputError: if the attention form is asked for without a class token, or the base has no positive form.
        """
        if self.form == "attention" and setup.attention is None:
            raise InputError("NAP's attention form needs a class token, which this network has not: write form: map")
        if self.base is not None and not self.base.positive:
            raise InputError(
                f"NAP multiplies into a positive score, and {type(self.base).__name__}'s never is and has no positive "
                "form; take another base, or add the two up after the run"
            )
        self.attention = self.form == "attention" or (self.form == "auto" and setup.attention is not None)
        self.taps = () if self.attention else (self.tap,)
        super().setup(setup)

    def update(self, features: Features) -> None:
        """Fits the base."""
        if self.base is not None:
            self.base.update(features)

    def compute(self) -> dict[str, Tensor]:
        """What the base fitted, under ``base.``."""
        return nest("base", self.base.compute()) if self.base is not None and self.base.fits else {}

    def prior(self, features: Features) -> Tensor:
        """NAP alone, ``[B]``, not negative."""
        if self.attention:
            assert features.attention is not None
            return self._attention_prior(features.attention)
        return map_prior(features.maps[self.tap], self.eps, self.power)

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """NAP, or the logarithm of its product with the base."""
        return self.prior(features) if self.base is None else self.log_score(features, fitted)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """The logarithm of NAP or of the product."""
        prior = self.prior(features)
        log_prior = prior.clamp_min(torch.finfo(prior.dtype).tiny).log()
        if self.base is None:
            return log_prior
        return self.weight * self.base.log_score(features, unnest("base", fitted)) + (1 - self.weight) * log_prior

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """The form that was chosen, the weight, and what the base says."""
        own: dict[str, float | str] = {"form": "attention" if self.attention else "map"}
        if self.base is None:
            return own
        below = self.base.summary(unnest("base", fitted))
        return {**own, "weight": self.weight, **{f"base.{key}": value for key, value in below.items()}}

    def _attention_prior(self, attention: Tensor) -> Tensor:
        row = attention.float() if self.self_entry else attention[:, :, 1:].float()  # the class token comes first
        if self.head_reduction == "none":
            return row.amax(dim=2).mean(dim=1)
        return (row.mean(dim=1) if self.head_reduction == "mean" else row.amax(dim=1)).amax(dim=1)


def map_prior(activation: Tensor, eps: float = 1.0, power: float = 2.0) -> Tensor:
    """The map form of NAP.

    Args:
        activation: ``[B, C, ...]``; negative entries count as zero.
        eps: added to the mean of a channel, in units of the map.
        power: exponent of the ratio.

    Returns:
        ``[B]``, in ``[0, N ** power]`` for N positions.
    """
    flat = activation.float().relu().flatten(2)
    return (flat.amax(dim=2) / (flat.mean(dim=2) + eps)).pow(power).mean(dim=1)
