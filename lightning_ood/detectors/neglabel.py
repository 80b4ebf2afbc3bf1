"""Negative Label Guided OOD Detection with Pretrained VLMs. Jiang et al. ICLR 2024. https://arxiv.org/abs/2403.20078."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.ranges import check_at_least, check_positive, check_share
from lightning_ood.detectors.text_cosine import TextCosine
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.networks.attach import read_embeddings


class NegLabel(TextCosine):
    """Share of the class texts in the softmax over class texts and negative labels, texts far from every class (eq. 5).

    ``mean over groups g of P / (P + sum_{n in g} exp(cos(z, n) / T))``, ``P = sum_k exp(cos(z, t_k) / T)``, as a
    logarithm; at most 0. The negatives are chosen from the candidates of a file (section 3.1): the share of them whose
    95th percentile of cosines with the classes is the smallest. They are dealt out to the groups in turn.

    Fits no image: the fit pass stores the chosen ``negatives`` [n, D] with the run, so that a test or an exported
    folder needs no file. State: a count of images. Without a file it is the logarithm of the largest softmax over the
    classes alone (MCM at this temperature).

    Deviations: the logarithm, which changes no ranking. The authors choose among nouns and adjectives apart, the same
    share of each, and shuffle the chosen before they group them; a file here is one list, and dealing it out mixes it
    without a seed. Negatives left over where the groups do not divide them make some groups larger by one; the authors
    drop them.

    Args:
        negatives: a safetensors file with the text embeddings ``negatives`` ``[n, D]`` of the candidates.
        temperature: T, of the cosines. The authors: 0.01.
        keep: share of the candidates that become negative labels. The authors: 0.15 of WordNet's nouns and adjectives.
        groups: number of groups. The authors: 100.

    Raises:
        InputError: if the file has no candidates, too few for the groups, or of another length than the feature.
    """

    images: Tensor

    def __init__(
        self, negatives: str | None = None, temperature: float = 0.01, keep: float = 0.15, groups: int = 100
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_share("keep", keep, below=False)
        check_at_least("groups", groups, 1)
        self.negatives, self.temperature, self.keep, self.groups = negatives, temperature, keep, groups

    @property
    def requires_fit(self) -> bool:
        """Whether negatives have to be stored."""
        return self.negatives is not None

    def setup(self, info: NetworkInfo) -> None:
        """Declares the count of images."""
        super().setup(info)
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Counts a batch."""
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``negatives`` [n, D], unit vectors."""
        if self.negatives is None:
            return {}
        self._require_images(self.images)
        assert self.head is not None  # setup refuses a network without a linear head
        candidates = read_embeddings(Path(self.negatives), "negatives")["negatives"]
        if candidates.shape[1] != self.head.num_features:
            raise InputError(
                f"NegLabel: {self.negatives} has embeddings of {candidates.shape[1]} numbers, and the feature has "
                f"{self.head.num_features}; make them with the text tower of the same model"
            )
        return {"negatives": farthest(candidates, self.head.weight.cpu(), self._count(len(candidates)))}

    def _count(self, candidates: int) -> int:
        count = round(self.keep * candidates)
        if count < self.groups:
            raise InputError(
                f"NegLabel: keep={self.keep} of {candidates} candidates are {count} negative labels, fewer than groups="
                f"{self.groups}; give more candidates, a larger keep (1 keeps all), or fewer groups"
            )
        return count

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        classes = self.cosines(features).double() / self.temperature  # [B, K]
        if self.negatives is None:
            return (classes.amax(1) - classes.logsumexp(1)).float()
        negatives = features.similarity(fitted["negatives"]).double() / self.temperature  # [B, n]
        positive = classes.logsumexp(1)
        groups = (negatives[:, first :: self.groups].logsumexp(1) for first in range(self.groups))
        shares = [positive - torch.logaddexp(positive, group) for group in groups]  # [B] each
        return (torch.stack(shares, dim=1).logsumexp(1) - math.log(self.groups)).float()

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the score ``[B]``, a logarithm already."""
        return self.score(features, fitted)


def farthest(candidates: Tensor, classes: Tensor, count: int) -> Tensor:
    """Chooses the candidates that are farthest from the classes, in the order of the file.

    Args:
        candidates: ``[n, D]``.
        classes: ``[K, D]``.
        count: number that is chosen, by the 95th percentile of each candidate's cosines.

    Returns:
        ``[count, D]``, unit vectors.
    """
    directions = F.normalize(candidates.float(), dim=1)
    closeness = (directions @ F.normalize(classes.float(), dim=1).T).quantile(0.95, dim=1)  # [n]
    chosen = closeness.argsort(stable=True)[:count].sort().values
    return directions[chosen]
