"""Neural Activation Prior for OOD Detection. Wan et al. 2024. https://arxiv.org/abs/2402.18162."""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_ood.detectors._contract import nest, unnest
from lightning_ood.detectors.base import SMALLEST, Detector, Fitted
from lightning_ood.detectors.doubts import Seen, search_doubts
from lightning_ood.detectors.pseudo_ood import PseudoOOD, criterion, middle_of_best
from lightning_ood.detectors.ranges import check_at_least, check_positive, check_share
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, View

STEPS = 20  # a search tries the weights 0, 1 / STEPS, ..., 1


class NAP(Detector):
    """Ratio of the largest to the mean activation of a channel: NAP alone, or multiplied into another score.

    Map form, on the map ``A`` ``[C, H, W]`` that enters global pooling (after its last activation), eps in its units:
    ``NAP = mean_c (max_hw A_c / (mean_hw A_c + eps)) ** power``. eps = 1 is not a numerical guard: it sets the scale.

    Attention form, on the class token's attention in the last block: ``NAP = max_n attention_n``.

    With a base S: ``weight * log S + (1 - weight) * log NAP``, the logarithm of the weighted geometric mean (NAP-M with
    MSP, NAP-E with Energy, NAP-R with ReAct, ...). weight 1 ranks as the base, weight 0 as NAP.

    With a number as weight, only the base is fitted. ``weight: search`` finds w as the paper does, on pseudo-OOD made
    of ID images. Both logarithms are computed once, on ``images`` training images and on their transforms
    (``pseudo_ood``; one more forward per training image and transform). Of w = 0, 0.05, ..., 1 the one with the
    largest AUROC, averaged over the transforms, is chosen; of equal ones the middle one. The paper mentions a binary
    search and names neither objective nor transform; a grid needs no unimodal curve and no further forward. Fitted
    then: ``weight``, ``curve`` ``[transforms, 21]``, ``floored``, and the fit of the base.

    The authors published no code. Choices that the paper leaves open are options: the reduction over heads, and whether
    the maximum includes the class token's attention to itself. Deviations:

    - The printed product has a leading minus, which would reverse the ranking of MSP; it is left out.
    - A base has to be positive, which the paper does not mention: see each ``log_score`` (Energy: at least 1e-6).
    - Negative entries of a map (SiLU, GELU, no activation) count as zero; otherwise the denominator crosses zero.

    Args:
        base: another detector whose score NAP is multiplied into; NAP alone where None.
        weight: w of the base, in [0, 1], or ``search``. The paper searches it per network, data set and base.
        form: ``map`` or ``attention``; ``auto`` is ``attention`` if the network has a class token, else ``map``.
        tap: the map that the map form reads.
        eps: added to the mean of a channel.
        power: exponent of the ratio.
        head_reduction: ``mean`` or ``max`` over heads before the maximum over tokens; ``none`` is the mean over
            heads of each head's own maximum.
        self_entry: whether the maximum includes the class token's attention to itself.
        pseudo_ood: transforms of training images that a search uses as OOD; a 3x3 jigsaw without a border where None,
            the validation OOD set where empty.
        images: largest number of images of each kind in a search.
        held_out: fraction of the training images on which a search scores and the base is not fitted. A base that
            memorises the scored image itself, such as a bank of training features, would seem better than it is.
        seed: seed of the samples.
    """

    reads_logits = False

    weight: float | Literal["search"]

    def __init__(
        self,
        base: Detector | None = None,
        weight: float | Literal["search"] = 0.5,
        form: Literal["auto", "map", "attention"] = "auto",
        tap: str = "last",
        eps: float = 1.0,
        power: float = 2.0,
        head_reduction: Literal["mean", "max", "none"] = "mean",
        self_entry: bool = False,
        pseudo_ood: list[View] | None = None,
        images: int = 1000,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if weight != "search" and not 0 <= weight <= 1:
            raise InputError(f"NAP: weight={weight} is not between 0 and 1; write the weight of the base, or `search`")
        if weight == "search" and base is None:
            raise InputError("NAP searches the weight of a base: name one, or leave `weight` out")
        check_at_least("eps", eps, 0)
        check_positive("power", power)
        check_at_least("images", images, 1)
        check_share("held_out", held_out)
        self.base, self.weight, self.form = base, weight, form
        self.tap, self.eps, self.power = tap, eps, power
        self.head_reduction, self.self_entry = head_reduction, self_entry
        self.searches = weight == "search"
        self.pseudo_ood, self.images, self.held_out, self.seed = pseudo_ood, images, held_out, seed
        self.views = tuple([Jigsaw()] if pseudo_ood is None else pseudo_ood) if self.searches else ()
        self.val_ood = self.searches and not self.views

    @property
    def requires_fit(self) -> bool:
        """Whether the weight is searched or the base requires a fit."""
        return self.searches or (self.base is not None and self.base.requires_fit)

    def setup(self, info: NetworkInfo) -> None:
        """Chooses the form and sets up the base.

        Raises:
            InputError: if the attention form is set and there is no class token, or the base has no positive form.
        """
        if self.form == "attention" and info.attention is None:
            raise InputError("NAP's attention form needs a class token, and this network has none: write form: map")
        if self.base is not None and not self.base.positive:
            raise InputError(
                f"NAP is multiplied into a positive score, and that of {type(self.base).__name__} is never positive "
                "and has no positive form; use another base, or Fusion"
            )
        self.attention = self.form == "attention" or (self.form == "auto" and info.attention is not None)
        self.taps = () if self.attention else (self.tap,)
        super().setup(info.holding_out() if self.searches else info)
        if self.searches:
            alone = NAP(None, 0.5, self.form, self.tap, self.eps, self.power, self.head_reduction, self.self_entry)
            alone.setup(info)
            assert self.base is not None
            pair = (alone, self.base)
            self.trial = PseudoOOD(pair, self.views, info, self.images, self.held_out, self.seed, log_score)

    def update(self, features: Features) -> None:
        """Adds a batch to the base, and to the samples of a search."""
        if self.searches:
            features = self.trial.update(features)
        if self.base is not None and len(features):
            self.base.update(features)

    def update_ood(self, features: Features) -> None:
        """Adds a batch of validation OOD images, which a search uses if ``pseudo_ood`` is empty."""
        if self.searches:
            self.trial.update_ood(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes the fit of the base, under ``base.``, and the result of the search.

        Raises:
            InputError: if a search finds that the base is not positive on most training images.
        """
        if self.base is None:
            return {}
        of_base = self.base.compute() if self.base.requires_fit else {}
        return {**nest("base", of_base), **(self._search(of_base) if self.searches else {})}

    def _search(self, of_base: Fitted) -> dict[str, Tensor]:
        id_logs, ood_logs = self.trial.compute(
            [{}, of_base]
        )  # [n, 2] of log NAP and log base; one [m, 2] per transform
        weights = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64).tolist()
        floored = (id_logs[:, 1] <= math.log(SMALLEST) + 1e-6).double().mean()
        if floored > 0.5:
            raise InputError(
                f"NAP is multiplied into a positive score, and that of {type(self.base).__name__} is not positive on "
                f"{floored:.0%} of the training images; use another base"
            )

        def mixed(logs: Tensor, w: float) -> Tensor:
            return w * logs[:, 1] + (1 - w) * logs[:, 0]

        rows = [[criterion(mixed(id_logs, w), mixed(logs, w), "auroc") for w in weights] for logs in ood_logs]
        curve = torch.stack([torch.stack(row) for row in rows])  # [transforms, STEPS + 1]
        best = weights[middle_of_best(curve.mean(dim=0))]
        return {"weight": curve.new_tensor(best), "curve": curve, "floored": floored}

    def prior(self, features: Features) -> Tensor:
        """Computes NAP without the base: ``[B]``, not negative."""
        if self.attention:
            assert features.attention is not None
            return self._attention_prior(features.attention)
        return map_prior(features.maps[self.tap], self.eps, self.power)

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch with NAP, or with the logarithm of its product with the base: ``[B]``."""
        return self.prior(features) if self.base is None else self.log_score(features, fitted)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the logarithm ``[B]`` of NAP or of its product with the base."""
        prior = self.prior(features)
        log_prior = prior.clamp_min(torch.finfo(prior.dtype).tiny).log()
        if self.base is None:
            return log_prior
        weight = fitted["weight"].to(log_prior.dtype) if self.weight == "search" else self.weight
        return weight * self.base.log_score(features, unnest("base", fitted)) + (1 - weight) * log_prior

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the form, the weight, the curve of a search and the summary of the base."""
        own: dict[str, float | str] = {"form": "attention" if self.attention else "map"}
        if self.base is None:
            return own
        below = {f"base.{key}": value for key, value in self.base.summary(unnest("base", fitted)).items()}
        if not self.searches:
            return {**own, "weight": float(self.weight), **below}
        curve = fitted["curve"]
        own |= {"weight": float(fitted["weight"]), "floored": float(fitted["floored"])}
        for name, row in zip(self.trial.names, curve.tolist(), strict=True):
            own[f"AUROC against {name}, w = 0 to 1"] = " ".join(f"{100 * value:.1f}" for value in row)
        return {**own, **below}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a search that ends at 0 or 1, or finds nothing above chance."""
        found = super().doubts(fitted, seen)
        if not self.searches:
            return found
        weight = float(fitted["weight"])
        ends = {0.0: "weight=0 (NAP alone)", 1.0: "weight=1 (the base alone)"}
        best = float(fitted["curve"].mean(dim=0).max())
        return [*found, *search_doubts(best, [ends[weight]] if weight in ends else [])]

    def _attention_prior(self, attention: Tensor) -> Tensor:
        # [B, heads, N]; the class token is the first of N.
        row = attention.float() if self.self_entry else attention[:, :, 1:].float()
        if self.head_reduction == "none":
            return row.amax(dim=2).mean(dim=1)
        return (row.mean(dim=1) if self.head_reduction == "mean" else row.amax(dim=1)).amax(dim=1)


def log_score(detector: Detector, features: Features, fitted: Fitted) -> Tensor:
    """Returns the logarithm ``[B]`` of the positive form of a detector's score."""
    return detector.log_score(features, fitted)


def map_prior(activation: Tensor, eps: float = 1.0, power: float = 2.0) -> Tensor:
    """Computes the map form of NAP.

    Args:
        activation: ``[B, C, ...]``; negative entries count as zero.
        eps: added to the mean of a channel, in units of the map.
        power: exponent of the ratio.

    Returns:
        ``[B]``, in ``[0, N ** power]`` for N positions.
    """
    flat = activation.float().relu().flatten(2)  # [B, C, N]
    return (flat.amax(dim=2) / (flat.mean(dim=2) + eps)).pow(power).mean(dim=1)
