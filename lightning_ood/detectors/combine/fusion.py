"""One score made of several, calibrated on training images: no OOD data, no further forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_ood.detectors._contract import nest, unnest
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import Calibration, check_share, check_steps, split
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.nap import NAP
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo


class Rule(ABC):
    """Turns the scores of several detectors into one."""

    @abstractmethod
    def __call__(self, scores: Tensor, known: Tensor) -> Tensor:
        """Combines scores.

        Args:
            scores: ``[B, M]`` of M detectors.
            known: ``[n, M]`` their scores on ID images.

        Returns:
            ``[B]``, higher = more in-distribution; any real value, to be read as a logarithm where one is wanted.
        """


@dataclass(frozen=True)
class RobustZ(Rule):
    """The sum of ``(score - median) / IQR``, both of each detector's scores on ID images.

    Median and inter-quartile range do not mind a few odd images. A detector that gives most ID images one score has no
    IQR: its standard deviation is taken, and it is left out where that is zero too.

    Attributes:
        ceiling: a detector adds at most this; none where None. A score far above the usual then cannot make up for
            another detector's doubt.
    """

    ceiling: float | None = None

    def __call__(self, scores: Tensor, known: Tensor) -> Tensor:
        """``[B]``, the sum over detectors."""
        quarters = torch.linspace(0.25, 0.75, 3, dtype=known.dtype, device=known.device)
        low, median, high = known.quantile(quarters, dim=0)
        spread = torch.where(high > low, high - low, known.std(dim=0, unbiased=False))
        z = torch.where(spread > 0, (scores - median) / torch.where(spread > 0, spread, 1), 0)
        return (z if self.ceiling is None else z.clamp(max=self.ceiling)).sum(dim=1)


def p_values(scores: Tensor, known: Tensor) -> Tensor:
    """``[B, M]`` empirical p-values of "this is an ID image": ``(1 + share of n scores at or below) / (n + 1)``."""
    ordered = known.T.contiguous().sort(dim=1).values
    below = torch.searchsorted(ordered, scores.T.contiguous(), right=True)
    return (1 + below.T.double()) / (len(known) + 1)


@dataclass(frozen=True)
class Fisher(Rule):
    """Fisher's combination of p-values (Dadalto et al. 2024, https://arxiv.org/abs/2406.16045): the sum of ``log p``.

    Deviation: not multiplied by -2, so that higher is more in-distribution; corrections for dependent detectors
    (Brown) rescale the statistic and change no ranking. An image below all n ID scores has p = 1 / (n + 1) with every
    detector alike: more ID images separate such images further.
    """

    def __call__(self, scores: Tensor, known: Tensor) -> Tensor:
        """``[B]``, at most 0."""
        return p_values(scores, known).log().sum(dim=1)


@dataclass(frozen=True)
class Joint(Rule):
    """The empirical joint distribution function (Novello et al. 2024, https://arxiv.org/abs/2407.07135).

    ``log((1 + number of ID images that score no higher with any detector) / (n + 1))``. With more than a few detectors
    hardly any image is below in all, and most scores tie at the lowest value.
    """

    def __call__(self, scores: Tensor, known: Tensor) -> Tensor:
        """``[B]``, at most 0."""
        below = (known <= scores[:, None]).all(dim=2).sum(dim=1)
        return ((1 + below.double()) / (len(known) + 1)).log()


class Fusion(Detector):
    """A detector made of others: each one's score is compared with what it gives ID images, then a rule joins them.

    ``rule(scores, known)``, with ``known`` the scores of all members on ``images`` training images. Members that agree
    on ID images and fail on different OOD images make up for each other.

    Fits what its members fit and ``known`` ``[n, M]``, without labels and without OOD images. State: the members', one
    number an image for a member that fits nothing, and for the others the features that they read (``FeatureSample``).

    A bank of neighbours that holds the scored image itself puts one neighbour at distance 0: with k = 50 the median
    moves by a fiftieth of a neighbour's rank and no more, with k = 1 every ID score would be 0. Then, or where a member
    remembers its images in another way, set ``held_out``: that share of the training images calibrates and is not
    fitted on. p-values are exact only then.

    Args:
        of: name -> member; NAP, Energy and KNN (k = 50) where None.
        rule: how scores are joined; the sum of robust z-scores where None.
        images: training images that calibrate, at most.
        held_out: share of the training images that calibrates and that members are not fitted on; 0 fits and
            calibrates on the same.
        seed: draws other images.
    """

    def __init__(
        self,
        of: dict[str, Detector] | None = None,
        rule: Rule | None = None,
        images: int = 4000,
        held_out: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if of is not None and len(of) < 2:
            raise InputError("Fusion joins detectors: name at least two in `of`")
        check_share(held_out)
        self.of = {"nap": NAP(), "energy": Energy(), "knn": KNN()} if of is None else dict(of)
        self.members = nn.ModuleList(self.of.values())
        self.rule = RobustZ() if rule is None else rule
        self.images, self.held_out, self.seed = images, held_out, seed

    def setup(self, info: NetworkInfo) -> None:
        """Sets the members up and makes room for the sample."""
        super().setup(info.sharing() if self.held_out else info)
        check_steps("Fusion", list(self.of.values()))
        self.calibration = Calibration(list(self.of.values()), self.images, info, self.seed)

    def update(self, features: Features) -> None:
        """Fits the members and keeps what calibrates them."""
        share = self.held_out if any(member.requires_fit for member in self.of.values()) else 0.0
        fitted_on, scored_on = split(features, share, self.seed)
        self.calibration.update(scored_on)
        for member in self.of.values():
            if member.requires_fit and len(fitted_on):
                member.update(fitted_on)

    def update_ood(self, features: Features) -> None:
        """Passes validation OOD images on to members that search."""
        for member in self.of.values():
            member.update_ood(features)

    def compute(self) -> dict[str, Tensor]:
        """``known`` ``[n, M]`` and what each member fitted, under its name.

        Raises:
            InputError: if no training image calibrates.
        """
        fitted = {name: member.compute() if member.requires_fit else {} for name, member in self.of.items()}
        known = self.calibration.compute(list(fitted.values()))
        if len(known) < 2:
            raise InputError("Fusion has no training images to calibrate on: fit on more, or raise `held_out`")
        nested = [nest(name, of_member) for name, of_member in fitted.items()]
        return {"known": known, **{key: value for part in nested for key, value in part.items()}}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """``[B]``, as the rule gives it, float64."""
        scores = [m.score(features, unnest(name, fitted)).double() for name, m in self.of.items()]
        known = fitted["known"]
        return self.rule(torch.stack(scores, dim=1), known)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """The score itself: a sum of evidence is a logarithm already."""
        return self.score(features, fitted)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Median and inter-quartile range of each member on ID images, and what the members say."""
        known = fitted["known"]
        said: dict[str, float | str] = {"images": float(len(known))}
        for i, (name, member) in enumerate(self.of.items()):
            low, median, high = known[:, i].quantile(known.new_tensor([0.25, 0.5, 0.75])).tolist()
            said |= {f"{name}.median": median, f"{name}.iqr": high - low}
            said |= {f"{name}.{key}": value for key, value in member.summary(unnest(name, fitted)).items()}
        return said
