"""Fusion of several scores, calibrated on training images, without OOD data or another forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_ood.detectors._contract import nest, unnest
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import Calibration, check_share, check_steps, split, stream_of
from lightning_ood.detectors.combine.votes import Votes
from lightning_ood.detectors.doubts import Seen, inside, jigsaw_doubts
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.ranges import check_at_least, check_positive
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.transfer import beside
from lightning_ood.views import View


class Rule(ABC):
    """Combines the scores of several detectors into one."""

    @abstractmethod
    def __call__(self, scores: Tensor, id_scores: Tensor, votes: Tensor | None = None) -> Tensor:
        """Combines scores.

        Args:
            scores: ``[B, M]`` of M detectors.
            id_scores: ``[n, M]``, scores of the same detectors on ID images.
            votes: ``[M]``, how much each detector counts; alike where None.

        Returns:
            ``[B]``, higher = more in-distribution; any real value. ``log_score`` uses it as a logarithm.
        """


@dataclass(frozen=True)
class RobustZ(Rule):
    """Sum over detectors of ``z = (score - median) / IQR``, both of the detector's scores on ID images.

    Median and inter-quartile range are robust to a few outliers. If a detector gives most ID images the same score, its
    IQR is zero and its standard deviation is used. If that is zero too, the detector is left out.

    Attributes:
        ceiling: largest value that a detector adds; unlimited where None. With a ceiling, a very high score of one
            detector cannot compensate a low score of another.
        power: exponent p of what a detector is short of the ceiling. With another one than 1 the sum is that of
            ``-(ceiling - z)^p``: above 1, one detector that is far below its ID scores counts more than several that
            are a little below. Needs a ceiling.
        weights: factor of each detector in the sum, in their order; 1 where None. Detectors of one kind that agree on
            most images may share a weight, so that no kind of evidence counts more often than another.
    """

    ceiling: float | None = None
    power: float = 1.0
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        check_positive("power", self.power)
        for weight in self.weights or ():
            check_at_least("weights", weight, 0)
        if self.power != 1 and self.ceiling is None:
            raise InputError(f"RobustZ: power={self.power} is of what is missing to the ceiling; write a ceiling, as 1")

    def __call__(self, scores: Tensor, id_scores: Tensor, votes: Tensor | None = None) -> Tensor:
        """Combines scores ``[B, M]`` to the sum over detectors ``[B]``; votes multiply the weights."""
        quarters = torch.linspace(0.25, 0.75, 3, dtype=id_scores.dtype, device=id_scores.device)
        low, median, high = id_scores.quantile(quarters, dim=0)  # [M] each
        spread = torch.where(high > low, high - low, id_scores.std(dim=0, unbiased=False))  # [M]
        z = torch.where(spread > 0, (scores - median) / torch.where(spread > 0, spread, 1), 0)  # [B, M]
        if self.ceiling is not None:
            z = z.clamp(max=self.ceiling) if self.power == 1 else -(self.ceiling - z).clamp(min=0).pow(self.power)
        if self.weights is not None:
            if len(self.weights) != z.shape[1]:
                raise InputError(f"RobustZ: {len(self.weights)} weights for {z.shape[1]} detectors; write one for each")
            z = z * beside(torch.tensor(self.weights, dtype=z.dtype), z)
        return (z if votes is None else z * votes).sum(dim=1)


def p_values(scores: Tensor, id_scores: Tensor) -> Tensor:
    """Computes empirical p-values ``[B, M]`` of the hypothesis that an image is ID.

    The p-value is ``(1 + number of the n ID scores at or below the score) / (n + 1)``.
    """
    ordered = id_scores.T.contiguous().sort(dim=1).values  # [M, n]
    below = torch.searchsorted(ordered, scores.T.contiguous(), right=True)  # [M, B]
    return (1 + below.T.double()) / (len(id_scores) + 1)


@dataclass(frozen=True)
class Fisher(Rule):
    """Fisher's combination of p-values (Dadalto et al. 2024, https://arxiv.org/abs/2406.16045): the sum of ``log p``.

    Deviation: not multiplied by -2, so that higher is more in-distribution. Corrections for dependent detectors (Brown)
    rescale the statistic and change no ranking. All images that score below all n ID images have the same
    p = 1 / (n + 1) for every detector; with more ID images fewer of them are tied.
    """

    def __call__(self, scores: Tensor, id_scores: Tensor, votes: Tensor | None = None) -> Tensor:
        """Combines scores ``[B, M]`` to ``[B]``, at most 0; votes multiply the logarithms."""
        logs = p_values(scores, id_scores).log()
        return (logs if votes is None else logs * votes).sum(dim=1)


@dataclass(frozen=True)
class Joint(Rule):
    """The empirical joint distribution function (Novello et al. 2024, https://arxiv.org/abs/2407.07135).

    ``log((1 + number of ID images that score no higher with any detector) / (n + 1))``. With more than a few detectors
    hardly any ID image scores lower with all of them, and most scores tie at the lowest value.
    """

    def __call__(self, scores: Tensor, id_scores: Tensor, votes: Tensor | None = None) -> Tensor:
        """Combines scores ``[B, M]`` to ``[B]``, at most 0; a detector without a vote is left out."""
        if votes is not None:
            scores, id_scores = scores.where(votes > 0, 0), id_scores.where(votes > 0, 0)
        below = (id_scores <= scores[:, None]).all(dim=2).sum(dim=1)  # [B, n, M] -> [B, n] -> [B]
        return ((1 + below.double()) / (len(id_scores) + 1)).log()


class Fusion(Detector):
    """Combines several detectors: compares each member's score with its scores on ID images, then applies a rule.

    The score is ``rule(scores, id_scores)``, with ``id_scores`` the scores of all M members on ``images`` training
    images. Members that agree on ID images and fail on different OOD images compensate each other.

    Fits its members and ``id_scores`` ``[n, M]``, without labels and without OOD images. State: that of the members,
    one number per image for a member that fits nothing, and for the others the features that they read
    (``FeatureSample``).

    A bank of neighbours that contains the scored image itself has one neighbour at distance 0. With k = 50 the median
    moves by at most a fiftieth of a neighbour's rank; with k = 1 every ID score would be 0. In such a case, or if a
    member memorises its images in another way, set ``held_out``: that fraction of the training images is used for
    calibration and not for fitting. Only then are p-values exact.

    With ``pseudo_ood`` members have votes: the log-odds ``log(A / (1 - A))`` of their AUROC A between the images of the
    calibration and their views (one more forward per training image and view, none per test image). A member that
    scores views above images has none. Fitted then too: ``auroc`` ``[views, M]`` and ``votes`` ``[M]``.

    Args:
        of: name -> member; NAP, Energy and KNN (k = 50) where None.
        rule: how scores are joined; the sum of robust z-scores where None.
        images: largest number of training images for the calibration.
        held_out: fraction of the training images for calibration, on which members are not fitted; with 0 members are
            fitted and calibrated on the same images.
        seed: seed of the sample.
        pseudo_ood: views of training images, by which the members' votes are weighed; none, and all alike, where None.
    """

    reads_logits = False

    def __init__(
        self,
        of: dict[str, Detector] | None = None,
        rule: Rule | None = None,
        images: int = 4000,
        held_out: float = 0.0,
        seed: int = 0,
        pseudo_ood: list[View] | None = None,
    ) -> None:
        super().__init__()
        if of is not None and len(of) < 2:
            raise InputError(f"Fusion combines detectors, and `of` has {len(of)}: name at least two")
        check_share(held_out)
        check_at_least("images", images, 2)
        self.of = {"nap": NAP(), "energy": Energy(), "knn": KNN()} if of is None else dict(of)
        self.members = nn.ModuleList(self.of.values())
        self.rule = RobustZ() if rule is None else rule
        self.images, self.held_out, self.seed, self.pseudo_ood = images, held_out, seed, pseudo_ood
        self.views = tuple(pseudo_ood or ())

    def setup(self, info: NetworkInfo) -> None:
        """Sets up the members and the sample for calibration."""
        super().setup(info.holding_out() if self.held_out else info)
        self.stream = stream_of(info)
        members = list(self.of.values())
        check_steps("Fusion", members)
        self.calibration = Calibration(members, self.images, info, self.seed)
        self.votes = Votes(members, self.views, self.images, info, self.seed)

    def update(self, features: Features) -> None:
        """Adds a batch to the members and to the sample for calibration."""
        share = self.held_out if any(member.requires_fit for member in self.of.values()) else 0.0
        fitted_on, scored_on = split(features, share, self.seed, self.stream)
        self.calibration.update(scored_on)
        self.votes.update(scored_on)
        for member in self.of.values():
            if member.requires_fit and len(fitted_on):
                member.update(fitted_on)

    def update_ood(self, features: Features) -> None:
        """Passes validation OOD images on to members that search."""
        for member in self.of.values():
            member.update_ood(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``id_scores`` ``[n, M]`` and the fit of each member, under its name.

        Raises:
            InputError: if there are fewer than two training images for the calibration.
        """
        fitted = {name: member.compute() if member.requires_fit else {} for name, member in self.of.items()}
        id_scores = self.calibration.compute(list(fitted.values()))
        if len(id_scores) < 2:
            raise InputError(
                f"Fusion has {len(id_scores)} training images to calibrate on, and needs two: fit on more images, or "
                "raise `held_out`"
            )
        votes = self.votes.compute(id_scores, list(fitted.values())) if self.views else {}
        nested = [nest(name, of_member) for name, of_member in fitted.items()]
        return {"id_scores": id_scores, **votes, **{key: value for member in nested for key, value in member.items()}}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch with the rule: ``[B]`` float64."""
        scores = [m.score(features, unnest(name, fitted)).double() for name, m in self.of.items()]  # [B] each
        return self.rule(torch.stack(scores, dim=1), fitted["id_scores"], fitted.get("votes"))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the score ``[B]``, a sum of evidence, which is used as a logarithm."""
        return self.score(features, fitted)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns median and inter-quartile range of each member on ID images, and the members' summaries."""
        id_scores = fitted["id_scores"]
        summary: dict[str, float | str] = {"images": float(len(id_scores))}
        for i, (name, member) in enumerate(self.of.items()):
            low, median, high = id_scores[:, i].quantile(id_scores.new_tensor([0.25, 0.5, 0.75])).tolist()
            summary |= {f"{name}.median": median, f"{name}.iqr": high - low}
            summary |= {f"{name}.vote": float(fitted["votes"][i])} if self.views else {}
            summary |= {f"{name}.{key}": value for key, value in member.summary(unnest(name, fitted)).items()}
        return summary

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts members: what each doubts, one that scores jigsaws above images, one with a single score."""
        found = []
        for i, (name, member) in enumerate(self.of.items()):
            if self.views and not fitted["votes"][i]:
                continue  # it counts nothing
            of_member, scores = unnest(name, fitted), fitted["id_scores"][:, i]
            doubts = [*jigsaw_doubts(member, of_member, seen), *member.doubts(of_member, seen)]
            if scores.min() == scores.max():
                doubts.append("it gives all training images the same score: it adds nothing; leave it out")
            found += inside(name, doubts)
        return found
